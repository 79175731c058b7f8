package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/alerts"
	"github.com/posthornhq/posthorn/pkg/deadletter"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/services/broker"
)

// herald runs what tells of dead letters until the test ends, or stop is called.
func (r *rig) herald(cfg broker.AlertsConfig) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.broker.RunAlerts(ctx, r.js, alerts.New(r.broker.Own()), cfg); err != nil {
			r.t.Errorf("alerts: %v", err)
		}
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	r.t.Cleanup(stop)
	// It tells of what comes after its consumer was made.
	eventually(r.t, "dead letters are followed", func() bool {
		_, err := r.js.Consumer(r.t.Context(), topology.StreamDeadLetters, topology.ConsumerAlerts)
		return err == nil
	})
	return stop
}

func (r *rig) bury(ev, sub, typ string) {
	r.t.Helper()
	if err := r.letters.Put(r.t.Context(), &event.DeadLetter{
		Event: ev, Subscription: sub, Type: typ, Round: 1, Attempts: 3, Reason: "exhausted", Detail: "503", Status: 503, At: time.Now(),
	}); err != nil {
		r.t.Fatal(err)
	}
}

// told returns the alerts that were stored.
func (r *rig) told() []*event.Event {
	r.t.Helper()
	s, err := r.js.Stream(r.t.Context(), topology.StreamEvents)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []*event.Event
	for seq := uint64(1); seq <= r.stored(topology.StreamEvents); seq++ {
		m, err := s.GetMsg(r.t.Context(), seq)
		if err != nil {
			r.t.Fatal(err)
		}
		ev, err := r.store.Get(r.t.Context(), string(m.Data))
		if err != nil {
			r.t.Fatal(err)
		}
		if alerts.Is(ev.Type) {
			out = append(out, ev)
		}
	}
	return out
}

// count is how many dead letters an alert tells of.
func count(t *testing.T, ev *event.Event) int {
	t.Helper()
	var data struct {
		Count int `json:"count"`
	}
	if err := json.Unmarshal(ev.Data, &data); err != nil {
		t.Fatal(err)
	}
	return data.Count
}

func TestADeadLetterIsToldAtOnceAndManyTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"erp","types":["order.*"],"tenant":"acme","context":"testing",`+anywhere+`}`)
	stop := r.herald(broker.AlertsConfig{})
	r.bury("ev_first", "erp", "order.created")
	eventually(t, "the first is told", func() bool { return len(r.told()) == 1 })
	ev := r.told()[0]
	if ev.Type != alerts.DeadLetters || ev.Source != "posthorn" || ev.Direction != event.Outgoing || ev.Subject != "erp" || ev.Tenant != "acme" || ev.Context != "testing" || count(t, ev) != 1 {
		t.Errorf("told %+v %s, want one dead letter of erp, to its tenant and context", ev, ev.Data)
	}
	const more = 1000
	for i := range more {
		r.bury(fmt.Sprintf("ev_%d", i), "erp", "order.created")
	}
	r.bury("ev_other", "other", "order.created")
	eventually(t, "another subscription's is told at once", func() bool { return len(r.told()) == 2 })
	eventually(t, "all but the newest are settled", func() bool {
		c, err := r.js.Consumer(t.Context(), topology.StreamDeadLetters, topology.ConsumerAlerts)
		if err != nil {
			return false
		}
		info, err := c.Info(t.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 1
	})
	stop() // tells of what waits
	got := r.told()
	if len(got) != 3 || count(t, got[2]) != more {
		t.Fatalf("%d alerts, the last of %d dead letters; want 3, the last of %d", len(got), count(t, got[len(got)-1]), more)
	}
	var data struct {
		Subscription string `json:"subscription"`
		DeadLetter   struct {
			ID, Event, Reason string
			Status            int
		} `json:"deadLetter"`
	}
	if err := json.Unmarshal(got[2].Data, &data); err != nil {
		t.Fatal(err)
	}
	if d := data.DeadLetter; data.Subscription != "erp" || d.Event != "ev_999" || d.ID != "1001" || d.Reason != "exhausted" || d.Status != 503 {
		t.Errorf("the last alert says %+v, want the newest dead letter of erp", data)
	}
}

func TestWhatWaitedIsToldWhenItsTimeIsOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.herald(broker.AlertsConfig{Every: 200 * time.Millisecond})
	for i := range 5 {
		r.bury(fmt.Sprintf("ev_%d", i), "erp", "order.created")
	}
	eventually(t, "all are told", func() bool {
		n := 0
		for _, ev := range r.told() {
			n += count(t, ev)
		}
		return n == 5
	})
	// After a while without any, the next is told at once again.
	r.bury("ev_later", "erp", "order.created")
	eventually(t, "the later one is told", func() bool {
		all := r.told()
		return strings.Contains(string(all[len(all)-1].Data), "ev_later")
	})
}

// Trouble with alerts must not make alerts.
func TestADeadAlertIsNotTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.herald(broker.AlertsConfig{})
	for i, typ := range []string{alerts.DeadLetters, alerts.Failing, alerts.Recovered, alerts.Disabled} {
		r.bury(fmt.Sprintf("ev_%d", i), "operator", typ)
	}
	r.bury("ev_real", "erp", "order.created")
	eventually(t, "the real one is told", func() bool { return len(r.told()) == 1 })
	if got := r.told(); got[0].Subject != "erp" {
		t.Errorf("told of %s, want of erp alone", got[0].Subject)
	}
}

// A process that dies after it told, and before it said so, tells again.
func TestWhatIsToldTwiceIsOneEvent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stop := r.herald(broker.AlertsConfig{})
	r.bury("ev_1", "erp", "order.created")
	eventually(t, "it is told", func() bool { return len(r.told()) == 1 })
	stop()
	p := alerts.New(r.broker.Own())
	letters, _, err := r.letters.List(t.Context(), deadletter.Query{Limit: 10})
	if err != nil || len(letters) != 1 {
		t.Fatalf("dead letters are %+v with error %v, want one", letters, err)
	}
	if err := p.DeadLetters(t.Context(), nil, alerts.Letters{Count: 1, Last: letters[0]}); err != nil {
		t.Fatal(err)
	}
	if got := r.told(); len(got) != 1 {
		t.Errorf("%d alerts, want 1", len(got))
	}
}

// What nobody told is told by the next one.
func TestDeadLettersWaitForSomebodyToTellThem(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.herald(broker.AlertsConfig{})()
	for i := range 3 {
		r.bury(fmt.Sprintf("ev_%d", i), "erp", "order.created")
	}
	if got := r.told(); len(got) != 0 {
		t.Fatalf("%d alerts while nobody tells, want none", len(got))
	}
	stop := r.herald(broker.AlertsConfig{})
	eventually(t, "the first is told", func() bool { return len(r.told()) > 0 })
	eventually(t, "the others wait", func() bool {
		c, err := r.js.Consumer(t.Context(), topology.StreamDeadLetters, topology.ConsumerAlerts)
		if err != nil {
			return false
		}
		info, err := c.Info(t.Context())
		return err == nil && info.NumPending == 0 && info.NumAckPending == 1
	})
	stop()
	got := r.told()
	if len(got) != 2 || count(t, got[0]) != 1 || count(t, got[1]) != 2 {
		t.Errorf("%d alerts, want one of the first and one of the two others", len(got))
	}
}

func TestAlertsGoToThoseWhoAskForThem(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.subscribe(t, `{"name":"operator","types":["posthorn.#"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"one","types":["#","posthorn.deadletter.*"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"other-type","types":["#","posthorn.subscription.*"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"all","types":["#","*.deadletter.created"],`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"acme","types":["posthorn.#"],"tenant":"acme",`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"testing","types":["posthorn.#"],"context":"testing",`+anywhere+`}`)
	r.catalog.subscribe(t, `{"name":"filtered","types":["posthorn.#"],"filter":"subject == 'erp' && data.deadLetter.status == 503",`+anywhere+`}`)
	r.route()
	r.herald(broker.AlertsConfig{})
	r.bury("ev_1", "erp", "order.created")
	r.routed(1)
	if got := r.queued(); len(got) != 3 || got["operator"] != 1 || got["one"] != 1 || got["filtered"] != 1 {
		t.Errorf("queued for %v, want once for operator, one and filtered", got)
	}
	// Not to the one that it is about.
	r.bury("ev_2", "operator", "order.created")
	r.routed(2)
	if got := r.queued(); got["operator"] != 1 || got["one"] != 2 {
		t.Errorf("queued for %v, want a second one for one, and none for operator", got)
	}
	if n, err := r.broker.Replay(t.Context(), r.told()[1].ID); err != nil || n != 1 {
		t.Errorf("a replay queues %d with error %v, want 1", n, err)
	}
}
