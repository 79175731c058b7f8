package dispatcher_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
)

// flaky claims are away at the first call.
type flaky struct {
	dedup.Claims
	calls atomic.Int64
}

func (f *flaky) Claim(ctx context.Context, key, owner string, ttl time.Duration) (dedup.Claim, error) {
	if f.calls.Add(1) == 1 {
		return dedup.Claim{}, errs.New(errs.Unavailable, "away for a moment")
	}
	return f.Claims.Claim(ctx, key, owner, ttl)
}

// Also under a policy that does not retry: the delivery waits, it does not die untried.
func TestAnOutageOfTheClaimsUsesUpNoTry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.catalog.put(t, `{"name":"fast","delivery":{"maxRetries":0}}`)
	p := r.parts()
	p.Dispatcher.Deps.Claims = &flaky{Claims: p.claims}
	r.run(p)
	ev := r.send(p)
	r.empty(p)
	if n := r.endpoint.count(); n != 1 {
		l := r.letter(p, ev.ID)
		t.Errorf("sent %d times, want once; dead letter: %s, %q", n, l.Reason, l.Detail)
	}
}

func TestADeliveryOfAnUnknownPolicyGoesByTheDefault(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.parts()
	r.run(p)
	r.subscribe(`{"name":"s","policy":"gone"}`)
	ev := r.send(p, func(d *event.Delivery) { d.Policy = "gone" })
	p.CatalogChanged()
	if a := r.attempts(p, ev, 1)[0]; a.Outcome != event.Delivered {
		t.Errorf("%+v", a)
	}
}
