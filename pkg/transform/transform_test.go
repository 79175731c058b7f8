package transform_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/transform"
)

// sink notes what it was sent.
type sink struct{ sent []*destination.Message }

func (s *sink) Send(_ context.Context, m *destination.Message) destination.Result {
	s.sent = append(s.sent, m)
	return destination.Result{Verdict: destination.Accepted, Status: 204}
}

func (s *sink) String() string { return "sink" }

func never(int) bool { return false }

func TestWhatIsMadeIsSent(t *testing.T) {
	t.Parallel()
	next := new(sink)
	d := transform.NewRunner().Wrap(next, compile(t, `{id}`))
	if d.String() != "sink" {
		t.Errorf("it is called %q, want what it wraps", d.String())
	}
	stored := &event.Event{
		ID: "ev_1", Type: "order.created", Subject: "o/1", DataContentType: "application/vnd.order+json", DataSchema: "https://schemas.example/order",
		Data: []byte(`{"id":9007199254740993,"secret":true}`),
	}
	m := &destination.Message{Event: stored, Delivery: &event.Delivery{Event: "ev_1"}, TraceParent: "00-x", Now: time.Unix(1, 0)}
	if res := d.Send(t.Context(), m); res.Verdict != destination.Accepted || res.Status != 204 {
		t.Errorf("the result is %+v, want the destination's own", res)
	}
	if len(next.sent) != 1 {
		t.Fatalf("sent %d times, want once", len(next.sent))
	}
	got := next.sent[0]
	if string(got.Event.Data) != `{"id":9007199254740993}` || got.Event.ContentType() != "application/json" || got.Event.DataSchema != "" {
		t.Errorf("sent %s as %s of schema %q, want what was made, as plain JSON of no schema", got.Event.Data, got.Event.ContentType(), got.Event.DataSchema)
	}
	if got.Event.ID != "ev_1" || got.Event.Subject != "o/1" || got.Delivery != m.Delivery || got.TraceParent != m.TraceParent || got.Now != m.Now {
		t.Errorf("sent %+v, want all but the data as it was", got)
	}
	if m.Event != stored || string(stored.Data) != `{"id":9007199254740993,"secret":true}` || stored.DataSchema == "" {
		t.Error("the stored event was changed")
	}
}

func TestWithoutAProgramNothingIsWrapped(t *testing.T) {
	t.Parallel()
	next := new(sink)
	if d := transform.NewRunner().Wrap(next, nil); d != destination.Destination(next) {
		t.Errorf("it is %T, want the destination itself", d)
	}
}

func TestAFailureSendsNothingAndIsANoForGood(t *testing.T) {
	t.Parallel()
	next := new(sink)
	r := transform.NewRunner()
	m := &destination.Message{Event: &event.Event{Data: []byte(`{"a":1}`)}}
	res := r.Wrap(next, compile(t, `error("no customer")`)).Send(t.Context(), m)
	if res.Outcome(never) != event.Refused || res.Reason != transform.Reason || res.ErrorClass != destination.ClassTransform ||
		!strings.Contains(res.Err.Error(), "no customer") {
		t.Errorf("the result is %+v, want a refusal by reason of the program's error", res)
	}
	text := &destination.Message{Event: &event.Event{DataContentType: "text/plain", Data: []byte(`{"a":1}`)}}
	res = r.Wrap(next, compile(t, `.`)).Send(t.Context(), text)
	if res.Outcome(never) != event.Refused || res.Reason != transform.Reason || !strings.Contains(res.Err.Error(), "text/plain") {
		t.Errorf("the result is %+v, want a refusal because of text/plain", res)
	}
	// Time is the machine's, not the program's.
	ctx, cancel := context.WithDeadlineCause(t.Context(), time.Unix(0, 0), errors.New("up"))
	defer cancel()
	res = r.Wrap(next, compile(t, `.`)).Send(ctx, m)
	if res.Outcome(never) != event.Retry || res.Reason != "" || res.ErrorClass != destination.ClassTimeout {
		t.Errorf("the result is %+v, want that it is tried again", res)
	}
	if len(next.sent) != 0 {
		t.Errorf("sent %d times, want never", len(next.sent))
	}
}

func TestAProgramIsForManyAtOnce(t *testing.T) {
	t.Parallel()
	p, r := compile(t, `{n: (.n + 1), t: (.t | map(. * 2) | add)}`), transform.NewRunner()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				out, err := r.Apply(context.Background(), p, "application/json", []byte(`{"n":1,"t":[1,2,3]}`))
				if err != nil || string(out) != `{"n":2,"t":12}` {
					t.Errorf("made %s with error %v", out, err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkTransform(b *testing.B) {
	p := compile(b, `{id, customer: .customer.mail, total: (.total * 100), skus: (.lines | map(.sku) | join(","))}`)
	for b.Loop() {
		if _, err := p.Apply(b.Context(), "application/json", []byte(order)); err != nil {
			b.Fatal(err)
		}
	}
}

// shown is a sink that says beforehand what it sends.
type shown struct{ sink }

func (s *shown) Prepare(_ context.Context, m *destination.Message) destination.Request {
	return destination.Request{Method: "PUT", Target: "shown", Body: m.Event.Data}
}

func TestWhatIsMadeIsShown(t *testing.T) {
	t.Parallel()
	r := transform.NewRunner()
	m := &destination.Message{Event: &event.Event{Data: []byte(`{"id":1,"more":true}`)}}
	for _, tt := range []struct {
		what, program string
		next          destination.Destination
		want          destination.Request
	}{
		{"what is sent", `{id}`, new(shown), destination.Request{Method: "PUT", Target: "shown", Body: []byte(`{"id":1}`)}},
		{"nothing is sent", `error("no")`, new(shown), destination.Request{Target: "sink"}},
		{"a destination that cannot say", `{id}`, new(sink), destination.Request{Target: "sink"}},
	} {
		p, ok := r.Wrap(tt.next, compile(t, tt.program)).(destination.Preparer)
		if !ok {
			t.Fatalf("%s: it cannot be asked", tt.what)
		}
		if diff := cmp.Diff(tt.want, p.Prepare(t.Context(), m)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.what, diff)
		}
	}
}
