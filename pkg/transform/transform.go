package transform

import (
	"context"
	"errors"
	"runtime"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/event"
)

// Reason is the reason of the dead letters of deliveries whose data could not be
// made.
const Reason = "transform"

// A Runner runs programs, as many at once as there are processors: they only
// calculate, and what they hold in memory is bounded for each.
type Runner struct{ slots chan struct{} }

// NewRunner returns a Runner.
func NewRunner() *Runner { return &Runner{slots: make(chan struct{}, runtime.GOMAXPROCS(0))} }

// Apply is [Program.Apply], when there is a processor for it.
func (r *Runner) Apply(ctx context.Context, p *Program, contentType string, data []byte) ([]byte, error) {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-r.slots }()
	return p.Apply(ctx, contentType, data)
}

// Wrap returns a destination that sends to next what p makes of each event's data.
// What is signed is what is sent. With a nil program it is next itself.
//
// A failure sends nothing. It is a no for good, with [Reason], unless another try
// may end otherwise: time that was up is tried again.
func (r *Runner) Wrap(next destination.Destination, p *Program) destination.Destination {
	if p == nil {
		return next
	}
	return &transformed{Destination: next, program: p, runner: r}
}

type transformed struct {
	destination.Destination
	program *Program
	runner  *Runner
}

var _ destination.Preparer = (*transformed)(nil)

// Send makes the data and sends it.
func (t *transformed) Send(ctx context.Context, m *destination.Message) destination.Result {
	data, err := t.runner.Apply(ctx, t.program, m.Event.ContentType(), m.Event.Data)
	switch {
	case errors.Is(err, ErrTime) || ctx.Err() != nil && err != nil:
		return destination.Result{ErrorClass: destination.ClassTimeout, Err: errors.New("transform: " + err.Error())}
	case err != nil:
		return destination.Result{
			Verdict: destination.Answered, Reason: Reason, ErrorClass: destination.ClassTransform, Err: errors.New("transform: " + err.Error()),
		}
	}
	return t.Destination.Send(ctx, with(m, data))
}

// Prepare implements [destination.Preparer].
func (t *transformed) Prepare(ctx context.Context, m *destination.Message) destination.Request {
	nothing := destination.Request{Target: t.String()}
	next, ok := t.Destination.(destination.Preparer)
	if !ok {
		return nothing
	}
	data, err := t.runner.Apply(ctx, t.program, m.Event.ContentType(), m.Event.Data)
	if err != nil {
		return nothing // Send says why
	}
	return next.Prepare(ctx, with(m, data))
}

// with returns a copy of m whose event has other data.
func with(m *destination.Message, data []byte) *destination.Message {
	made := *m
	made.Event = remade(m.Event, data)
	return &made
}

// remade returns a copy of e with other data. It is JSON, and no longer what the
// publisher's schema describes.
func remade(e *event.Event, data []byte) *event.Event {
	out := *e
	out.Data, out.DataContentType, out.DataSchema = data, "", ""
	if e.DataContentType != "" {
		out.DataContentType = "application/json"
	}
	return &out
}
