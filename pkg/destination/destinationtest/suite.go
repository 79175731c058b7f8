package destinationtest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/event"
)

// Make sets a peer up, for the length of a test, and returns a destination that
// leads to it.
type Make func(t *testing.T) destination.Destination

// A Suite is a kind of destination with peers in each of the ways that one can behave.
// All that is not nil is run; a kind that cannot be in some way says why in Lacks.
//
// Every destination must be given the credentials and header values in Secrets, so
// that it can be seen that they show up nowhere.
type Suite struct {
	// Secrets are texts that must not be in a result, a name or the log.
	Secrets []string
	// Log returns what was logged so far; nil for kinds that log nothing.
	Log func() string
	// Lacks has, by the name of a field below that is nil, the reason.
	Lacks map[string]string

	// Accepts takes everything.
	Accepts Make
	// Refuses has a word for no, for good.
	Refuses Make
	// Unauthorized does not take our credentials.
	Unauthorized Make
	// Unavailable has a word for not now.
	Unavailable Make
	// Slow takes the event, but only after a while.
	Slow Make
	// Huge takes the event, with an answer larger than [destination.MaxResponse].
	Huge Make
	// Silent is connected to, and never says whether it took the event.
	Silent Make
	// Cut cuts the connection when it has the event, without a word.
	Cut Make
	// Nobody is an address at which nobody listens.
	Nobody Make
	// NoName is a host whose name does not resolve.
	NoName Make
	// Untrusted has a certificate that nobody signed whom we know.
	Untrusted Make
	// Blocked is at an address that the guard does not allow.
	Blocked Make
}

// A want is what an attempt must have taught.
type want struct {
	verdicts []destination.Verdict
	classes  []string // any if empty
	// timeout of the attempt, where its end is what is tested.
	timeout time.Duration
}

// plenty is the time of attempts that have nothing to wait for, also on a machine
// that has much to do.
const plenty = 30 * time.Second

func (s *Suite) ways() map[string]struct {
	make Make
	want want
} {
	type way = struct {
		make Make
		want want
	}
	no, yes, none := destination.Answered, destination.Accepted, destination.NoAnswer
	verdict := func(v ...destination.Verdict) []destination.Verdict { return v }
	return map[string]way{
		"Accepts":      {s.Accepts, want{verdicts: verdict(yes)}},
		"Refuses":      {s.Refuses, want{verdicts: verdict(no)}},
		"Unauthorized": {s.Unauthorized, want{verdicts: verdict(no, none), classes: []string{"", destination.ClassAuth}}},
		"Unavailable":  {s.Unavailable, want{verdicts: verdict(no, none)}},
		"Slow":         {s.Slow, want{verdicts: verdict(yes)}},
		"Huge":         {s.Huge, want{verdicts: verdict(yes)}},
		"Silent":       {s.Silent, want{verdicts: verdict(none), classes: []string{destination.ClassTimeout}, timeout: 200 * time.Millisecond}},
		"Cut":          {s.Cut, want{verdicts: verdict(none), classes: []string{destination.ClassClosed}}},
		"Nobody":       {s.Nobody, want{verdicts: verdict(none), classes: []string{destination.ClassConnect}}},
		"NoName":       {s.NoName, want{verdicts: verdict(none), classes: []string{destination.ClassDNS}}},
		"Untrusted":    {s.Untrusted, want{verdicts: verdict(none), classes: []string{destination.ClassTLS}}},
		"Blocked":      {s.Blocked, want{verdicts: verdict(none), classes: []string{destination.ClassBlocked}}},
	}
}

// Run runs the suite.
func Run(t *testing.T, s Suite) {
	t.Helper()
	ways := s.ways()
	for _, name := range slices.Sorted(maps.Keys(ways)) {
		way := ways[name]
		if way.make == nil {
			if s.Lacks[name] == "" {
				t.Errorf("%s is nil, and Lacks has no reason for it", name)
			}
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.attempt(t, way.make(t), way.want)
		})
	}
	if s.Accepts != nil {
		t.Run("many at once", func(t *testing.T) {
			t.Parallel()
			s.many(t, s.Accepts(t))
		})
		t.Run("a context that is done", func(t *testing.T) {
			t.Parallel()
			s.done(t, s.Accepts(t))
		})
	}
	if s.Silent != nil {
		t.Run("a context that is cancelled", func(t *testing.T) {
			t.Parallel()
			s.cancelled(t, s.Silent(t))
		})
	}
}

// NewMessage returns one with all that a delivery can have.
func NewMessage() *destination.Message {
	now := time.Now().Truncate(time.Second)
	return &destination.Message{
		Event: &event.Event{
			ID: "ev_01", Type: "order.created", Source: "shop", Tenant: "acme", Context: event.DefaultContext, Subject: "order 1 \u2713",
			Data: []byte(`{"id": 9007199254740993}`), Received: now, Extensions: map[string]string{"partitionkey": "p1"},
			CorrelationIDs: []string{"a", "b"}, TraceState: "a=b",
		},
		Delivery:    &event.Delivery{Event: "ev_01", Subscription: "orders-erp", Round: 1, Attempt: 2},
		TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		Now:         now,
	}
}

func (s *Suite) attempt(t *testing.T, d destination.Destination, w want) {
	t.Helper()
	timeout := w.timeout
	if timeout == 0 {
		timeout = plenty
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	m, before := NewMessage(), NewMessage()
	before.Now, before.Event.Received = m.Now, m.Event.Received
	r := d.Send(ctx, m)
	if diff := cmp.Diff(before, m); diff != "" {
		t.Errorf("Send changed the message (-before +after):\n%s", diff)
	}
	if !slices.Contains(w.verdicts, r.Verdict) || len(w.classes) > 0 && !slices.Contains(w.classes, r.ErrorClass) {
		t.Errorf("verdict is %d of class %q (%v), want one of %v of class %q", r.Verdict, r.ErrorClass, r.Err, w.verdicts, w.classes)
	}
	s.check(t, d, &r)
}

// check holds what is so of every result.
func (s *Suite) check(t *testing.T, d destination.Destination, r *destination.Result) {
	t.Helper()
	if accepted := r.Verdict == destination.Accepted; accepted != (r.Err == nil) {
		t.Errorf("verdict %d with error %v: an error is there if the event was not accepted, and only then", r.Verdict, r.Err)
	}
	if none := r.Verdict == destination.NoAnswer; none != (r.ErrorClass != "") {
		t.Errorf("verdict %d of class %q: a class is there if there was no answer, and only then", r.Verdict, r.ErrorClass)
	}
	if len(r.Response) > destination.MaxResponse {
		t.Errorf("%d bytes of the answer are kept, want %d at most", len(r.Response), destination.MaxResponse)
	}
	if r.Latency <= 0 {
		t.Errorf("latency is %v, want what the attempt took", r.Latency)
	}
	if r.Err != nil && (r.Err.Error() == "" || len(r.Err.Error()) > 600 || !utf8.ValidString(r.Err.Error())) {
		t.Errorf("error %q is empty, too long or not UTF-8", r.Err)
	}
	if d.String() == "" {
		t.Error("the destination has no name for people")
	}
	shown := map[string]string{"the result": fmt.Sprintf("%v %+v %s", r.Err, *r, r.Response), "the name": d.String()}
	if p, ok := d.(destination.Preparer); ok {
		req := p.Prepare(t.Context(), NewMessage())
		if req.Method == "" || req.Target == "" || len(req.Header) == 0 || len(req.Body) == 0 {
			t.Errorf("what is shown before is %+v, want method, target, headers and body", req)
		}
		shown["what is shown before"] = fmt.Sprintf("%+v", req)
	}
	if s.Log != nil {
		shown["the log"] = s.Log()
	}
	for where, text := range shown {
		for _, secret := range s.Secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s shows a credential: %s", where, text)
			}
		}
	}
}

func (s *Suite) many(t *testing.T, d destination.Destination) {
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() { s.attempt(t, d, want{verdicts: []destination.Verdict{destination.Accepted}}) })
	}
	wg.Wait()
}

// done: nothing may be said to have been delivered when there was no time to.
func (s *Suite) done(t *testing.T, d destination.Destination) {
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	r := d.Send(ctx, NewMessage())
	if r.Verdict != destination.NoAnswer || r.ErrorClass != destination.ClassTimeout {
		t.Errorf("verdict is %d of class %q (%v), want a timeout", r.Verdict, r.ErrorClass, r.Err)
	}
}

// cancelled: Send returns soon after its context is done, whatever ended it.
func (s *Suite) cancelled(t *testing.T, d destination.Destination) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan destination.Result, 1)
	go func() { done <- d.Send(ctx, NewMessage()) }()
	time.AfterFunc(50*time.Millisecond, cancel)
	select {
	case r := <-done:
		if r.Verdict != destination.NoAnswer {
			t.Errorf("verdict is %d, want no answer", r.Verdict)
		}
		s.check(t, d, &r)
	case <-time.After(plenty):
		t.Error("Send did not return when its context was done")
	}
}
