package dispatcher_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/event"
)

// sent is one request to an endpoint, as its dispatcher saw it.
type sent struct {
	node    *node
	key     journalKey
	d       event.Delivery
	begin   time.Time
	end     time.Time // zero while it is on its way
	ok      bool
	outcome string
}

// journalKey names a delivery.
type journalKey struct{ event, subscription string }

// A journal keeps what was sent, and complains of what must not be.
type journal struct {
	begun time.Time
	// A stall of the machine is nobody's fault: a grace is longer by the worst.
	stalled *stalls

	mu       sync.Mutex
	sends    []*sent
	of       map[journalKey][]*sent
	open     map[string]map[*sent]bool // by subscription
	doneAt   map[journalKey]time.Time
	pausedAt map[string]time.Time
	ordered  map[string]bool
	wrong    []complaint
}

type complaint struct {
	key  journalKey
	text string
}

func newJournal(stalled *stalls) *journal {
	return &journal{
		begun: time.Now(), stalled: stalled, of: map[journalKey][]*sent{}, open: map[string]map[*sent]bool{}, doneAt: map[journalKey]time.Time{},
		pausedAt: map[string]time.Time{}, ordered: map[string]bool{},
	}
}

// pauseGrace is for what was fetched before the pause: it waits for a slot, or is
// at the end of a lane that stops.
const pauseGrace = 3 * time.Second

func (j *journal) begin(n *node, d *event.Delivery) *sent {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := &sent{node: n, key: journalKey{d.Event, d.Subscription}, d: *d, begin: time.Now()}
	complain := func(format string, args ...any) {
		j.wrong = append(j.wrong, complaint{s.key, fmt.Sprintf(format, args...)})
	}
	if at, ok := j.doneAt[s.key]; ok {
		complain("sent again %v after it was done", s.begin.Sub(at))
	}
	for other := range j.open[d.Subscription] {
		switch {
		case other.node.dead.Load():
		case other.key == s.key:
			complain("sent twice at once")
		case j.ordered[d.Subscription]:
			complain("sent while %s is on its way, which is before or after it in order", other.key.event)
		}
	}
	if at, ok := j.pausedAt[d.Subscription]; ok && s.begin.Sub(at) > pauseGrace+j.stalled.worst() {
		complain("sent %v after everybody knew that the subscription is paused", s.begin.Sub(at))
	}
	j.sends = append(j.sends, s)
	j.of[s.key] = append(j.of[s.key], s)
	if j.open[d.Subscription] == nil {
		j.open[d.Subscription] = map[*sent]bool{}
	}
	j.open[d.Subscription][s] = true
	return s
}

func (j *journal) end(s *sent, res *destination.Result) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s.end, s.ok = time.Now(), res.Verdict == destination.Accepted
	s.outcome = fmt.Sprintf("%d %s", res.Status, res.ErrorClass)
	delete(j.open[s.d.Subscription], s)
}

func (j *journal) done(claim string) {
	parts := strings.Split(claim, ":") // delivery:<event>:<subscription>:<round>
	if len(parts) != 4 || parts[0] != "delivery" {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	key := journalKey{parts[1], parts[2]}
	if _, ok := j.doneAt[key]; !ok {
		j.doneAt[key] = time.Now()
	}
}

func (j *journal) paused(sub string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.pausedAt[sub] = time.Now()
}

func (j *journal) resumed(sub string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.pausedAt, sub)
}

// cutShort reports whether a dispatcher was killed with an attempt on its way, or
// in the time that settling it may take.
func (s *sent) cutShort() bool {
	return s.node.dead.Load() && (s.end.IsZero() || s.node.died.Sub(s.end) < 5*time.Second+s.node.journal.stalled.worst())
}

// trace tells what became of a delivery.
func (j *journal) trace(key journalKey) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	at := func(t time.Time) string { return fmt.Sprintf("%8.3fs", t.Sub(j.begun).Seconds()) }
	for _, s := range j.of[key] {
		end := "on its way"
		if !s.end.IsZero() {
			end = "until" + at(s.end) + " " + s.outcome
		}
		fmt.Fprintf(&b, "    %s %s dispatcher %d (dead: %t) sends %d (from %v, own %t), try %d\n", at(s.begin), end, s.node.number, s.node.dead.Load(), s.d.Sequence, s.d.From, s.d.Own, s.d.Attempt)
	}
	if t, ok := j.doneAt[key]; ok {
		fmt.Fprintf(&b, "    %s marked as done\n", at(t))
	}
	return b.String()
}

// drainWait bounds the wait for everything to be settled after all is well again.
const drainWait = 2 * time.Minute

// drained waits until nothing is queued any more.
func (m *model) drained() {
	m.t.Helper()
	m.routed()
	deadline := time.Now().Add(drainWait)
	for {
		d, err := m.router.queue.Depth(m.t.Context())
		if err == nil && d.Messages == 0 {
			m.note("everything is settled")
			return
		}
		if time.Now().After(deadline) {
			m.t.Errorf("%d deliveries are not settled %v after all is well (err %v):\n%s", d.Messages, drainWait, err, m.stuck())
			return
		}
		m.wait(20 * time.Millisecond)
	}
}

// stuck lists some of what is queued, and the lanes.
func (m *model) stuck() string {
	var b strings.Builder
	s, err := m.js.Stream(m.t.Context(), topology.StreamDeliveries)
	if err != nil {
		return err.Error()
	}
	st := s.CachedInfo().State
	n := 0
	for seq := st.FirstSeq; seq <= st.LastSeq && n < 15; seq++ {
		msg, err := s.GetMsg(m.t.Context(), seq)
		if err != nil {
			continue
		}
		n++
		d, _ := topology.ParseDeliverySubject(msg.Subject)
		fmt.Fprintf(&b, "  %d %s %s %v\n%s", seq, msg.Subject, msg.Data, msg.Header, m.journal.trace(journalKey{string(msg.Data), d.Subscription}))
	}
	list := s.ListConsumers(m.t.Context())
	for info := range list.Info() {
		fmt.Fprintf(&b, "  consumer %s: waiting %d, pending %d, redelivered %d, pulls %d\n", info.Name, info.NumPending, info.NumAckPending, info.NumRedelivered, info.NumWaiting)
	}
	for name, st := range m.router.lanes.All() {
		fmt.Fprintf(&b, "  lane %s: %+v\n", name, st)
	}
	return b.String()
}

// mostComplaints are shown of each kind.
const mostComplaints = 5

// verify compares what was sent with what should have been.
func (m *model) verify() {
	m.t.Helper()
	letters := m.letters()
	published := map[string]*publication{}
	sends, dead := 0, 0
	wrong := m.journal.complaints()
	complain := func(p *publication, sub, format string, args ...any) {
		wrong = append(wrong, complaint{journalKey{p.id, sub}, fmt.Sprintf(format, args...)})
	}
	for _, p := range m.events {
		published[p.id] = p
		for _, f := range m.followers {
			key := journalKey{p.id, f.name}
			tries, dls := m.journal.tries(key), letters[key]
			sends, dead = sends+len(tries), dead+len(dls)
			if !slices.Contains(p.to, f) {
				if len(tries)+len(dls) > 0 {
					complain(p, f.name, "does not match, and was sent %d times and buried %d times", len(tries), len(dls))
				}
				continue
			}
			m.fate(p, f, tries, dls, complain)
		}
	}
	for key := range letters {
		if published[key.event] == nil {
			wrong = append(wrong, complaint{key, "a dead letter of an event that nobody published"})
		}
	}
	for _, f := range m.followers {
		if strays := f.site.others(); len(strays) > 0 {
			wrong = append(wrong, complaint{journalKey{subscription: f.name}, fmt.Sprintf("got what was meant for others: %v", strays)})
		}
		if f.ordered {
			m.inOrder(f, published, complain)
		}
	}
	m.t.Logf("%d events, %d attempts, %d dead letters, %d dispatchers of which %d were killed, %v", len(m.events), sends, dead, len(m.nodes), len(m.killed), time.Since(m.begun).Round(time.Millisecond))
	for i, c := range wrong {
		if i == mostComplaints {
			m.t.Errorf("… and %d more", len(wrong)-i)
			break
		}
		at := 0.0
		if p := published[c.key.event]; p != nil {
			at = p.at.Sub(m.begun).Seconds()
		}
		m.t.Errorf("event %s (accepted at %.3fs) for %s: %s\n%s    dead letters: %+v\n  what happened to the subscription meanwhile:\n%s", c.key.event, at, c.key.subscription, c.text, m.journal.trace(c.key), letters[c.key], m.meanwhile(c.key))
	}
	m.lanesClosed()
}

// meanwhile tells the operations at the time of a delivery.
func (m *model) meanwhile(key journalKey) string {
	from, to := time.Time{}, time.Now()
	if tries := m.journal.tries(key); len(tries) > 0 {
		from, to = tries[0].begin.Add(-time.Second), tries[len(tries)-1].begin.Add(time.Second)
	}
	var b strings.Builder
	for line := range strings.Lines(m.tail(1000, from, to)) {
		if strings.Contains(line, key.subscription) || strings.Contains(line, "dispatcher") || strings.Contains(line, "policy") || strings.Contains(line, "broker") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (j *journal) complaints() []complaint {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.wrong)
}

func (j *journal) tries(key journalKey) []*sent {
	j.mu.Lock()
	defer j.mu.Unlock()
	return cloned(j.of[key])
}

// cloned returns requests as they are now: those on their way go on.
func cloned(all []*sent) []*sent {
	out := make([]*sent, len(all))
	for i, s := range all {
		now := *s
		out[i] = &now
	}
	return out
}

// fate checks what became of a delivery that was due.
func (m *model) fate(p *publication, f *follower, tries []*sent, dls []event.DeadLetter, complain func(*publication, string, string, ...any)) {
	delivered := 0
	for _, s := range tries {
		if s.ok && !s.cutShort() {
			delivered++
		}
	}
	ok := slices.ContainsFunc(tries, func(s *sent) bool { return s.ok })
	switch {
	case delivered > 1:
		complain(p, f.name, "was delivered %d times by dispatchers that went on", delivered)
	case !ok && len(dls) == 0:
		complain(p, f.name, "is lost")
	case delivered > 0 && len(dls) > 0 && !slices.ContainsFunc(tries, (*sent).cutShort) && !slices.ContainsFunc(dls, m.cutShort):
		complain(p, f.name, "was delivered, and is a dead letter too")
	case len(dls) > 1:
		complain(p, f.name, "is a dead letter %d times", len(dls))
	}
	for _, dl := range dls {
		if why := m.unreasonable(p, f, tries, dl); why != "" {
			complain(p, f.name, "is a dead letter (%s), but %s", dl.Reason, why)
		}
	}
}

// cutShort reports whether a dispatcher was killed in the time that settling a dead
// letter may take: the delivery comes again, and may go well.
func (m *model) cutShort(dl event.DeadLetter) bool {
	return slices.ContainsFunc(m.killed, func(at time.Time) bool {
		return !at.Before(dl.At) && at.Sub(dl.At) < 5*time.Second+m.journal.stalled.worst()
	})
}

// unreasonable says why there should be no dead letter.
func (m *model) unreasonable(p *publication, f *follower, tries []*sent, dl event.DeadLetter) string {
	switch dl.Reason {
	case "refused":
		if !slices.ContainsFunc(tries, func(s *sent) bool { return strings.HasPrefix(s.outcome, "422") }) {
			return "it was never refused"
		}
	case "exhausted", "max-deliveries":
		least, burnt := m.leastTries(p.at, dl.At), 0
		for _, at := range m.killed {
			if at.After(p.at) && at.Before(dl.At) {
				burnt++
			}
		}
		// Nor can a lane that changes wait for what the server takes up in a stall.
		burnt += min(2, int(m.journal.stalled.worst()/(50*time.Millisecond)))
		if len(tries) == 0 || len(tries)+burnt < least {
			return fmt.Sprintf("it was tried %d times, with %d tries lost in stalls and with dispatchers that were killed, where each policy allowed %d at least", len(tries), burnt, least)
		}
		if f.doc["onExhausted"] == "BLOCK" {
			return "the subscription is to be blocked instead"
		}
	case "no-subscription":
		if f.lastOff.Before(p.at) {
			return "the subscription has been there all the time"
		}
	default:
		return "that cannot be"
	}
	return ""
}

// leastTries is the fewest tries that any policy allowed in a span of time.
func (m *model) leastTries(from, to time.Time) int {
	least := math.MaxInt
	for _, history := range m.retries {
		for i, a := range history {
			late := 2*time.Second + m.journal.stalled.worst() // until everybody knows
			over := i+1 < len(history) && history[i+1].from.Add(late).Before(from)
			if !over && a.from.Before(to) {
				least = min(least, a.retries+1)
			}
		}
	}
	return least
}

// inOrder checks that first deliveries came in the order of acceptance.
func (m *model) inOrder(f *follower, published map[string]*publication, complain func(*publication, string, string, ...any)) {
	m.journal.mu.Lock()
	sends := cloned(m.journal.sends)
	m.journal.mu.Unlock()
	last, seen := -1, map[string]bool{}
	for _, s := range sends {
		p := published[s.key.event]
		if s.key.subscription != f.name || !s.ok || p == nil || seen[p.id] {
			continue
		}
		seen[p.id] = true
		if p.number < last {
			complain(p, f.name, "event %d was delivered after event %d (%s)", p.number, last, m.events[last].id)
		}
		last = max(last, p.number)
	}
}

func (m *model) letters() map[journalKey][]event.DeadLetter {
	m.t.Helper()
	all := map[journalKey][]event.DeadLetter{}
	for before := ""; ; {
		page, next, err := m.router.base.letters.List(m.t.Context(), deadletter.Query{Limit: 200, Before: before})
		if err != nil {
			m.t.Fatal(err)
		}
		for _, dl := range page {
			key := journalKey{dl.Event, dl.Subscription}
			all[key] = append(all[key], dl)
		}
		if before = next; before == "" {
			return all
		}
	}
}

// lanesClosed checks that lanes which nobody needs any more are given up, with
// their consumers.
func (m *model) lanesClosed() {
	m.t.Helper()
	needed := func(name string) bool {
		return slices.ContainsFunc(m.followers, func(f *follower) bool {
			return f.name == name && (f.ordered || f.name == "limited")
		})
	}
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); m.wait(50 * time.Millisecond) {
		left = left[:0]
		for name, s := range m.router.lanes.All() {
			if !needed(name) {
				left = append(left, fmt.Sprintf("lane %s: %+v", name, s))
			}
		}
		lanes, err := m.router.queue.Lanes(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		for _, l := range lanes {
			if l.Subscription != "" && !needed(l.Subscription) {
				left = append(left, fmt.Sprintf("consumer %s", l.Lane))
			}
		}
		if len(left) == 0 {
			return
		}
	}
	m.t.Errorf("a minute after everything was delivered there are still %v", left)
}
