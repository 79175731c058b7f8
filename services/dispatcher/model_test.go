package dispatcher_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/jetstream/jstest"
	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/queue"
)

// modelSteps is how many operations the model test makes by itself; more with
// POSTHORN_MODEL_STEPS. POSTHORN_MODEL_SEED repeats a run's operations.
const modelSteps = 2000

// The model is what a person would expect: each accepted event is either delivered
// to a subscription that matches, or a dead letter of it, and that for a reason; to
// the others it is not sent at all; an ordered subscription gets its events in the
// order of acceptance; and what is done is not sent again. A broker and several
// dispatchers, each on a connection and with mirrors of its own, are driven through
// random operations, and what was sent is compared with that.
func TestRandomOperationsLoseDoubleAndReorderNothing(t *testing.T) {
	t.Parallel()
	steps, seed := number(t, "POSTHORN_MODEL_STEPS", modelSteps), number(t, "POSTHORN_MODEL_SEED", rand.Uint64()>>16)
	repeat := fmt.Sprintf("POSTHORN_MODEL_SEED=%d POSTHORN_MODEL_STEPS=%d go test -race -run %s ./services/dispatcher", seed, steps, t.Name())
	t.Log("to repeat it: " + repeat)
	m := newModel(t, seed)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last operations:\n%s\nwhat the dispatchers warned of last:\n%s\nto repeat it: %s", m.tail(60), m.lastWarnings(60), repeat)
		}
	})
	m.begin()
	for i := range steps {
		m.step(i, steps)
	}
	m.mend()
	m.drained()
	m.verify()
	m.stop()
}

func number(t *testing.T, env string, def uint64) uint64 {
	t.Helper()
	text := os.Getenv(env)
	if text == "" {
		return def
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return n
}

// A follower is what the model knows of a subscription.
type follower struct {
	name    string
	matches func(*publication) bool
	site    *site
	ordered bool
	// What changes.
	doc     map[string]any
	off     bool // disabled or deleted
	deleted bool
	lastOff time.Time // when it was last switched off
	paused  time.Time // since when every dispatcher knows that it is paused; zero if it is not
}

// A publication is an event that was accepted.
type publication struct {
	id, typ, tenant string
	even            bool
	at              time.Time
	number          int
	to              []*follower
}

// allowed is how many retries a policy allows from then on.
type allowed struct {
	from    time.Time
	retries int
}

// A model drives the parts and knows what must come of it.
type model struct {
	t         *testing.T
	url       string
	rng       *rand.Rand
	begun     time.Time
	config    jetstream.KeyValue
	js        jetstream.JetStream
	router    *routerNode
	nodes     []*node // all that ever were
	followers []*follower
	events    []*publication
	journal   *journal
	policies  map[string]map[string]any
	retries   map[string][]allowed // what each policy said, in order
	killed    []time.Time          // each of which may cost a delivery a try

	mu       sync.Mutex
	ops      []operation
	warnings []operation
}

type operation struct {
	at   time.Time
	text string
}

func newModel(t *testing.T, seed uint64) *model {
	t.Helper()
	s := jstest.Start(t, t.TempDir())
	m := &model{
		t: t, url: s.URL(), rng: rand.New(rand.NewPCG(seed, 7)), begun: time.Now(), js: jstest.Connect(t, s),
		journal: newJournal(meterStalls(t)), policies: map[string]map[string]any{}, retries: map[string][]allowed{},
	}
	if _, err := topology.Ensure(t.Context(), m.js, topology.Config{}); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.config, err = m.js.KeyValue(t.Context(), topology.BucketConfig); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *model) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops = append(m.ops, operation{time.Now(), fmt.Sprintf(format, args...)})
}

// warn notes what a dispatcher said of its own accord.
func (m *model) warn(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.warnings = append(m.warnings, operation{time.Now(), fmt.Sprintf(format, args...)})
}

// lastWarnings tells the last n warnings.
func (m *model) lastWarnings(n int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.told(m.warnings[max(0, len(m.warnings)-n):])
}

// told writes operations down; the lock is held.
func (m *model) told(ops []operation) string {
	var b strings.Builder
	for _, o := range ops {
		fmt.Fprintf(&b, "    %8.3fs %s\n", o.at.Sub(m.begun).Seconds(), o.text)
	}
	return b.String()
}

// tail tells the last n operations in a span of time, if it is given.
func (m *model) tail(n int, between ...time.Time) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	ops := m.ops
	if len(between) == 2 {
		ops = slices.DeleteFunc(slices.Clone(ops), func(o operation) bool { return o.at.Before(between[0]) || o.at.After(between[1]) })
	}
	return m.told(ops[max(0, len(ops)-n):])
}

// begin writes the configuration and starts a broker and two dispatchers.
func (m *model) begin() {
	m.t.Helper()
	m.putPolicy("quick", map[string]any{"maxRetries": 6, "timeout": "0.4s", "retryOn": []string{"429", "5xx"}, "backoff": map[string]any{"initial": "0.01s", "max": "0.1s"}})
	m.putPolicy("steady", map[string]any{"maxRetries": 4, "timeout": "0.3s", "retryOn": []string{"429", "5xx"}, "backoff": map[string]any{"initial": "0.02s", "max": "0.05s"}})
	all := func(*publication) bool { return true }
	typed := func(prefix string) func(*publication) bool {
		return func(p *publication) bool { return strings.HasPrefix(p.typ, prefix) }
	}
	for _, f := range []struct {
		name    string
		matches func(*publication) bool
		doc     map[string]any
	}{
		{"all", all, map[string]any{"types": []string{"#"}, "policy": "quick"}},
		{"orders", typed("order."), map[string]any{"types": []string{"order.*"}, "policy": "quick", "maxInFlight": 4}},
		{"acme-users", func(p *publication) bool { return typed("user.")(p) && p.tenant == "acme" }, map[string]any{"types": []string{"user.*"}, "policy": "steady", "tenant": "acme", "priority": "HIGH"}},
		{"sequence", typed("order."), map[string]any{"types": []string{"order.*"}, "policy": "steady", "ordered": true}},
		{"even-sequence", func(p *publication) bool { return p.even }, map[string]any{"types": []string{"#"}, "policy": "quick", "ordered": true, "priority": "HIGH", "filter": "data.even == true"}},
		{"blocking", typed("invoice."), map[string]any{"types": []string{"invoice.*"}, "policy": "quick", "ordered": true, "onExhausted": "BLOCK"}},
		{"limited", typed("user."), map[string]any{"types": []string{"user.*"}, "policy": "quick", "ratePerSecond": 200, "priority": "LOW"}},
		{"now-and-then", typed("order.created"), map[string]any{"types": []string{"order.created"}, "policy": "steady"}},
		{"foreign", func(*publication) bool { return false }, map[string]any{"types": []string{"#"}, "policy": "quick", "direction": "INCOMING"}},
		{"elsewhere", func(*publication) bool { return false }, map[string]any{"types": []string{"#"}, "policy": "quick", "context": "testing"}},
	} {
		fol := &follower{name: f.name, matches: f.matches, doc: f.doc, site: newSite(m.t, f.name), ordered: f.doc["ordered"] == true}
		fol.doc["name"] = f.name
		fol.doc["destination"] = map[string]any{"webhook": map[string]any{"url": fol.site.URL + "/" + f.name}}
		m.followers = append(m.followers, fol)
		m.journal.ordered[f.name] = fol.ordered
		m.put("subscriptions", f.name, fol.doc)
	}
	m.router = m.newRouter()
	m.addNode()
	m.addNode()
}

// step makes one operation. Nodes are killed and followers switched off in the
// first part of the run only: what that costs takes its time.
func (m *model) step(i, steps uint64) {
	early := i < steps*7/10
	switch n := m.rng.IntN(1000); {
	case n < 800:
		m.publish()
	case n < 880:
		m.behave()
	case n < 900:
		m.pauseOrResume()
	case n < 925:
		m.editSubscription()
	case n < 940:
		m.editPolicy()
	case n < 960:
		m.forceLane()
	case n < 966 && early:
		m.switchFollower()
	case n < 970 && early:
		m.kill()
	case n < 974:
		m.addOrStop()
	case n < 976:
		m.restartRouter()
	default:
		m.wait(time.Duration(m.rng.IntN(150)) * time.Millisecond)
	}
	m.wait(time.Duration(m.rng.IntN(4)) * time.Millisecond)
}

// wait lets time pass, in which what was begun goes on.
func (m *model) wait(d time.Duration) {
	select {
	case <-m.t.Context().Done():
	case <-time.After(d):
	}
}

func (m *model) publish() {
	m.t.Helper()
	types := []string{"order.created", "order.paid", "user.created", "user.deleted", "invoice.sent"}
	p := &publication{
		typ: types[m.rng.IntN(len(types))], tenant: []string{"acme", "globex"}[m.rng.IntN(2)],
		even: m.rng.IntN(3) == 0, number: len(m.events),
	}
	m.publishOne(p)
}

func (m *model) publishOne(p *publication) {
	m.t.Helper()
	p.at = time.Now()
	r, err := m.router.Accept(m.t.Context(), event.Event{
		Type: p.typ, Source: "shop", Tenant: p.tenant, Direction: event.Outgoing,
		Data: fmt.Appendf(nil, `{"even":%t}`, p.even),
	}, "")
	if err != nil {
		m.t.Fatalf("publish: %v", err)
	}
	p.id = r.ID
	for _, f := range m.followers {
		if f.matches(p) && !f.off {
			p.to = append(p.to, f)
		}
	}
	m.events = append(m.events, p)
}

func (m *model) any() *follower { return m.followers[m.rng.IntN(len(m.followers))] }

func (m *model) behave() {
	f := m.any()
	b := []behaviour{well, well, well, well, failing500, refusing, hanging, throttling, wavering, wavering, slow, slow}[m.rng.IntN(12)]
	m.note("%s's endpoint is %s", f.name, b)
	f.site.set(b)
}

// edit changes a subscription's document, and makes it known to the router.
func (m *model) edit(f *follower, field string, value any) {
	m.t.Helper()
	m.note("%s: %s = %v", f.name, field, value)
	f.doc[field] = value
	m.see(m.put("subscriptions", f.name, f.doc))
}

func (m *model) pauseOrResume() {
	m.t.Helper()
	f := m.any()
	if f.deleted {
		return
	}
	if f.doc["paused"] == true {
		f.paused = time.Time{}
		m.journal.resumed(f.name)
		m.edit(f, "paused", false)
		return
	}
	m.edit(f, "paused", true)
	for _, n := range m.alive() {
		n.sees(m)
	}
	m.journal.paused(f.name)
}

func (m *model) editSubscription() {
	m.t.Helper()
	f := m.any()
	if f.deleted {
		return
	}
	switch m.rng.IntN(4) {
	case 0:
		m.edit(f, "maxInFlight", []int{0, 1, 2, 8, 64}[m.rng.IntN(5)])
	case 1:
		m.edit(f, "ratePerSecond", []int{0, 0, 50, 300}[m.rng.IntN(4)])
	case 2:
		m.edit(f, "priority", []string{"HIGH", "NORMAL", "LOW"}[m.rng.IntN(3)])
	case 3:
		m.edit(f, "policy", []string{"quick", "steady"}[m.rng.IntN(2)])
	}
}

func (m *model) editPolicy() {
	m.t.Helper()
	name := []string{"quick", "steady"}[m.rng.IntN(2)]
	d := m.policies[name]
	switch m.rng.IntN(3) {
	case 0:
		d["maxRetries"] = 2 + m.rng.IntN(7)
	case 1:
		d["timeout"] = fmt.Sprintf("0.%ds", 2+m.rng.IntN(4))
	case 2:
		d["backoff"] = map[string]any{"initial": fmt.Sprintf("0.0%ds", 1+m.rng.IntN(5)), "max": "0.2s"}
	}
	m.note("policy %s: %v", name, d)
	m.putPolicy(name, d)
}

// forceLane opens or closes an own lane, as an operator might, or a dispatcher
// that has seen something else.
func (m *model) forceLane() {
	m.t.Helper()
	// Not of the last two, who get nothing: only a success ends a failing lane.
	f, alive := m.followers[m.rng.IntN(len(m.followers)-2)], m.alive()
	n := alive[m.rng.IntN(len(alive))]
	what := m.rng.IntN(4)
	changed, err := n.lanes.Edit(m.t.Context(), f.name, func(s *queue.OwnState, there bool) queue.Change {
		switch {
		case what == 0 && there:
			*s = queue.OwnState{Closing: true, Since: time.Now()}
		case what == 0 || there && !s.Closing:
			return queue.Keep
		default:
			*s = queue.OwnState{Since: time.Now(), Reasons: []queue.Reason{[]queue.Reason{queue.Slow, queue.Slow, queue.Failing, queue.Throttled}[what]}}
		}
		return queue.Write
	})
	if err != nil {
		m.t.Fatalf("edit the lane of %s: %v", f.name, err)
	}
	m.note("lane of %s: %s: %t", f.name, []string{"close", "slow", "failing", "throttled"}[what], changed)
}

// switchFollower disables, deletes or brings back a subscription. The router has
// routed all that was accepted before, and knows before anything else is.
func (m *model) switchFollower() {
	m.t.Helper()
	f := m.followers[7]
	m.routed()
	switch {
	case f.off:
		m.note("%s is back", f.name)
		f.off, f.deleted = false, false
		delete(f.doc, "disabled")
		m.see(m.put("subscriptions", f.name, f.doc))
		if f.doc["paused"] == true {
			m.journal.paused(f.name) // anew: what was to be a dead letter may be at hand
		}
	case m.rng.IntN(2) == 0:
		f.off, f.lastOff = true, time.Now()
		m.edit(f, "disabled", true)
	default:
		m.note("%s is deleted", f.name)
		f.off, f.deleted, f.lastOff = true, true, time.Now()
		m.journal.resumed(f.name)
		if err := m.config.Delete(m.t.Context(), "subscriptions."+f.name); err != nil {
			m.t.Fatal(err)
		}
		m.see(m.revision())
	}
}

func (m *model) alive() []*node {
	var out []*node
	for _, n := range m.nodes {
		if !n.stopped && !n.dead.Load() {
			out = append(out, n)
		}
	}
	return out
}

const mostKills = 6

func (m *model) kill() {
	m.t.Helper()
	alive := m.alive()
	if len(m.killed) >= mostKills {
		return
	}
	n := alive[m.rng.IntN(len(alive))]
	if m.rng.IntN(2) == 0 {
		m.moving(n)
	}
	m.note("dispatcher %d is killed", n.number)
	m.killed = append(m.killed, time.Now())
	n.kill()
	if len(alive) == 1 || m.rng.IntN(2) == 0 {
		m.addNode()
	}
}

// moving makes a dispatcher move deliveries: many wait in the shared lane for an
// endpoint that is slow, when their subscription gets a lane of its own.
func (m *model) moving(n *node) {
	m.t.Helper()
	f := m.followers[1]
	m.note("%s's endpoint is %s, and gets a burst", f.name, slow)
	f.site.set(slow)
	for range 60 {
		m.publishOne(&publication{typ: "order.paid", tenant: "globex", number: len(m.events)})
	}
	m.routed()
	if _, err := n.lanes.Edit(m.t.Context(), f.name, func(s *queue.OwnState, there bool) queue.Change {
		*s = queue.OwnState{Since: time.Now(), Reasons: []queue.Reason{queue.Slow}}
		return queue.Write
	}); err != nil {
		m.t.Fatalf("edit the lane of %s: %v", f.name, err)
	}
	m.wait(time.Duration(m.rng.IntN(60)) * time.Millisecond)
}

func (m *model) addOrStop() {
	m.t.Helper()
	alive := m.alive()
	if len(alive) < 4 && (len(alive) == 1 || m.rng.IntN(2) == 0) {
		m.addNode()
		return
	}
	n := alive[m.rng.IntN(len(alive))]
	m.note("dispatcher %d is told to stop", n.number)
	n.stop()
}

func (m *model) restartRouter() {
	m.t.Helper()
	m.note("the broker is started anew")
	m.router.stop(m.t)
	m.router = m.newRouter()
}

// recover makes all well again.
func (m *model) mend() {
	m.t.Helper()
	m.note("all is well")
	for _, f := range m.followers {
		f.site.set(well)
		m.journal.resumed(f.name)
		f.off, f.deleted = false, false
		for _, k := range []string{"disabled", "paused"} {
			delete(f.doc, k)
		}
		f.doc["ratePerSecond"] = 0
		if f.name == "limited" {
			f.doc["ratePerSecond"] = 500
		}
		m.see(m.put("subscriptions", f.name, f.doc))
	}
	for len(m.alive()) < 2 {
		m.addNode()
	}
	// One more of each, so that every lane that waits for a sign of life gets one.
	for _, typ := range []string{"order.created", "order.paid", "user.created", "invoice.sent"} {
		m.publishOne(&publication{typ: typ, tenant: "acme", even: true, number: len(m.events)})
	}
}

// stop ends everything, also what was killed: nothing may go on.
func (m *model) stop() {
	m.t.Helper()
	m.router.stop(m.t)
	for _, n := range m.nodes {
		if !n.dead.Load() {
			n.stop()
		}
	}
	for _, n := range m.nodes {
		select {
		case <-n.done:
		case <-time.After(time.Minute):
			m.t.Errorf("dispatcher %d does not end", n.number)
		}
	}
}
