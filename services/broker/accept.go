package broker

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/posthornhq/posthorn/pkg/alerts"
	"github.com/posthornhq/posthorn/pkg/dedup"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/store"
	"github.com/posthornhq/posthorn/pkg/telemetry"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Accept takes responsibility for an event. When it returns without error, the
// event is stored and will be delivered; until then it is the producer's to
// send again. A repeat of key from the same source is answered with the first
// event's ID; an empty key is never a repeat. Refusals are recorded as rejections.
//
// What the platform knows itself (ID, time of receipt) is set here.
func (b *Broker) Accept(ctx context.Context, ev event.Event, key string) (event.Receipt, error) {
	return b.take(ctx, ev, key, b.complete)
}

// Own is where the platform's own events come in, which have types that nobody else
// may use: what tells operators of trouble must not be anybody's to say.
type Own struct{ b *Broker }

// Own returns the entrance for the platform's own events.
func (b *Broker) Own() Own { return Own{b} }

// Accept is [Broker.Accept] of an event of the platform's own.
func (o Own) Accept(ctx context.Context, ev event.Event, key string) (event.Receipt, error) {
	return o.b.take(ctx, ev, key, o.b.fill)
}

func (b *Broker) take(ctx context.Context, ev event.Event, key string, complete func(*event.Event) error) (event.Receipt, error) {
	end := b.span(ctx, &ev)
	r, err := b.accept(ctx, &ev, key, complete)
	end(err)
	if err != nil {
		b.reject(ctx, &ev, err)
		return r, err
	}
	b.Metrics.accepted(&ev, r.Duplicate)
	return r, nil
}

// span begins the span of accepting an event. What follows belongs to it.
func (b *Broker) span(ctx context.Context, ev *event.Event) (end func(error)) {
	if b.Spans == nil {
		return func(error) {}
	}
	begun, parent := time.Now(), ev.TraceParent
	ev.TraceParent = b.Spans.Enter(parent)
	return func(err error) {
		b.Spans.Record(ctx, &telemetry.Span{
			Name: "accept " + ev.Type, Parent: parent, Own: ev.TraceParent, Begun: begun, Ended: time.Now(), Kind: trace.SpanKindServer, Err: err,
			Attributes: []attribute.KeyValue{
				attribute.String("posthorn.event", ev.ID), attribute.String("posthorn.source", ev.Source), attribute.String("posthorn.context", ev.Context),
			},
		})
	}
}

func (b *Broker) accept(ctx context.Context, ev *event.Event, key string, complete func(*event.Event) error) (event.Receipt, error) {
	if err := complete(ev); err != nil {
		return event.Receipt{}, err
	}
	if key == "" {
		if err := b.validate(ev); err != nil {
			return event.Receipt{}, err
		}
		p, err := b.Store.Append(ctx, ev)
		return event.Receipt{ID: ev.ID, Sequence: p.Sequence}, err
	}
	claimKey := ingestKey(ev, key)
	claim, err := b.Claims.Claim(ctx, claimKey, ev.ID, b.cfg.Window)
	if err != nil {
		return event.Receipt{}, fmt.Errorf("broker: claim: %w", err)
	}
	if !claim.Mine(ev.ID) {
		return b.repeat(ctx, ev, claimKey, claim)
	}
	if err := b.validate(ev); err != nil {
		// The publisher may mend the event and send it under the same key.
		if rErr := b.Claims.Release(ctx, claimKey, ev.ID); rErr != nil {
			b.Log.Warn("a claim was not given up; its key stays taken until it expires", "key", claimKey, "err", rErr)
		}
		return event.Receipt{}, err
	}
	p, err := b.Store.Append(ctx, ev)
	if err != nil {
		// The claim stays: it names the ID under which the next try goes on.
		return event.Receipt{}, err
	}
	b.mark(ctx, claimKey, ev.ID)
	return event.Receipt{ID: ev.ID, Sequence: p.Sequence}, nil
}

// repeat answers a publish whose key somebody claimed before. If that try died
// between its claim and the store, this one finishes it under the same ID.
func (b *Broker) repeat(ctx context.Context, ev *event.Event, claimKey string, claim dedup.Claim) (event.Receipt, error) {
	ev.ID = claim.Owner
	if claim.Done {
		return event.Receipt{ID: ev.ID, Duplicate: true}, nil
	}
	if !store.ValidID(ev.ID) {
		return event.Receipt{}, fmt.Errorf("broker: claim %s is held by %q, which is no event ID", claimKey, ev.ID)
	}
	if err := b.validate(ev); err != nil {
		return event.Receipt{}, err
	}
	p, was, err := b.Store.Resume(ctx, ev)
	if err != nil {
		return event.Receipt{}, err
	}
	b.mark(ctx, claimKey, ev.ID)
	return event.Receipt{ID: ev.ID, Duplicate: was, Sequence: p.Sequence}, nil
}

// mark notes that the event of a claim is stored. No answer waits for it: a
// repeat that finds the claim unmarked looks for the event itself.
func (b *Broker) mark(ctx context.Context, claimKey, id string) {
	b.marks.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
		defer cancel()
		if err := b.Claims.Done(ctx, claimKey, id, b.cfg.Window); err != nil {
			b.Log.Debug("a claim was not marked as done", "key", claimKey, "err", err)
		}
	})
}

// markTimeout bounds the marking of one claim.
const markTimeout = 10 * time.Second

// ingestKey names a claim on a publisher's key. Producers and sources have
// namespaces of their own, in each context: what is sent to two contexts is two
// events.
func ingestKey(ev *event.Event, key string) string {
	from := ev.Direction.String()
	if ev.Context != "" && ev.Context != event.DefaultContext {
		from += "@" + ev.Context
	}
	return "ingest:" + from + "/" + ev.Source + ":" + key
}

// complete sets what the platform knows and checks what a publisher said, who may
// not speak for the platform.
func (b *Broker) complete(ev *event.Event) error {
	if err := b.fill(ev); err != nil {
		return err
	}
	if reservedType(ev.Type) {
		return errs.Field("type", "%.128q is the platform's own: types that begin with the word %s, or end with the word %s, are what it tells of itself; take another one", ev.Type, ownName, versionWord).Because("reserved")
	}
	if ev.Source == ownName && ev.Direction == event.Outgoing {
		return errs.Field("source", "%q is the platform itself; name the producer, or leave it out", ownName).Because("reserved")
	}
	return nil
}

// reservedType reports whether a type is one by which the platform tells of itself.
func reservedType(typ string) bool {
	rest, ok := strings.CutPrefix(typ, ownName)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '/') || hasVersionWord(typ)
}

// fill sets what the platform knows and checks what is said of an event.
func (b *Broker) fill(ev *event.Event) error {
	ev.ID = store.NewID()
	if b.Room != nil {
		if err := b.Room(); err != nil {
			return err
		}
	}
	if ev.Context == "" {
		ev.Context = event.DefaultContext
	} else if err := pattern.ValidName("context", ev.Context); err != nil {
		return err
	}
	if ev.Source == "" {
		ev.Source = anonymous
	}
	if ev.Received.IsZero() {
		ev.Received = time.Now().UTC()
	}
	if ev.Type == "" {
		return errs.Field("type", "is required; it says what happened, for instance order.created").Because("malformed")
	}
	var err error
	if ev.Type, err = pattern.ParseType(ev.Type); err != nil {
		return errs.Field("type", "%v", err).Because("malformed")
	}
	if len(ev.Data) > b.Store.MaxBytes() {
		return errs.New(errs.TooLarge, "the event's data has %d bytes; the limit is %d", len(ev.Data), b.Store.MaxBytes()).Because("too-large")
	}
	if err := validDepth(ev); err != nil {
		return err
	}
	for _, f := range [...]struct{ name, value string }{
		{"source", ev.Source}, {"tenant", ev.Tenant}, {"subject", ev.Subject}, {"dataContentType", ev.DataContentType},
		{"dataSchema", ev.DataSchema}, {"externalId", ev.ExternalID}, {"externalSource", ev.ExternalSource},
	} {
		if err := headerValue(f.name, f.value); err != nil {
			return err
		}
	}
	if ev.TraceParent == "" {
		ev.TraceParent, ev.TraceState = telemetry.Extract(nil)
	}
	ev.CorrelationIDs = append(ev.CorrelationIDs, telemetry.NewCorrelationID("eb", ev.Received))
	return nil
}

// anonymous is the source of events whose producer does not name itself; a
// CloudEvent must have one.
const anonymous = "anonymous"

// ownName is the source of the platform's own events, and the first word of most of
// their types.
const ownName = alerts.Source

// maxAttribute bounds an attribute of an event, in bytes.
const maxAttribute = 2048

// headerValue refuses what cannot travel in a header of NATS or HTTP.
func headerValue(field, v string) error {
	if len(v) > maxAttribute {
		return errs.Field(field, "has %d bytes; the limit is %d", len(v), maxAttribute).Because("malformed")
	}
	for i := range len(v) {
		if v[i] < ' ' || v[i] == 0x7f {
			return errs.Field(field, "has a control character").Because("malformed")
		}
	}
	return nil
}

// validate holds an event against its type's schema, as its source wants it.
func (b *Broker) validate(ev *event.Event) error {
	mode, required := posthornv1.Source_REJECT, false
	if ev.Direction == event.Incoming {
		if s, ok := b.Catalog.Source(ev.Context, ev.Source); ok {
			mode, required = s.SchemaMode(), s.Spec().GetSchemaRequired()
		}
	}
	if mode == posthornv1.Source_OFF {
		return nil
	}
	begun := time.Now()
	version, wrong := b.Schemas.ValidateContent(ev.Type, 0, ev.ContentType(), ev.Data)
	step := event.Step{Name: "schema", Outcome: "ok", At: begun, Took: time.Since(begun)}
	switch {
	case version == 0 && required:
		return errs.New(errs.Invalid, "no schema is stored for type %s, and source %s requires one; store it with `posthorn schema apply`", ev.Type, ev.Source).Because("schema")
	case version == 0:
		return nil
	case len(wrong) == 0:
		step.Detail = "version " + strconv.Itoa(version)
		ev.SchemaVersion = version
	case mode == posthornv1.Source_WARN:
		step.Outcome, step.Detail = "warn", describe(version, wrong)
	default:
		return errs.New(errs.Invalid, "the data does not satisfy the schema of %s: %s", ev.Type, describe(version, wrong)).
			Because("schema").With(wrong...)
	}
	ev.Receipt = append(ev.Receipt, step)
	return nil
}

func describe(version int, wrong []event.Violation) string {
	s := fmt.Sprintf("version %d: ", version)
	if at := wrong[0].Field; at != "" { // else it is about all of the data
		s += at + " "
	}
	s += wrong[0].Description
	if more := len(wrong) - 1; more > 0 {
		s += fmt.Sprintf(" (and %d more)", more)
	}
	return s
}

// reject records a refusal that is the publisher's to know of. What is our
// fault is not recorded: the stream that would keep it is probably at fault too.
func (b *Broker) reject(ctx context.Context, ev *event.Event, err error) {
	reason := errs.ReasonOf(err)
	b.Metrics.Rejected(reason)
	var status int
	switch errs.KindOf(err) {
	case errs.Invalid:
		status = http.StatusBadRequest
	case errs.TooLarge:
		status = http.StatusRequestEntityTooLarge
	default:
		return
	}
	rej := &event.Rejection{
		Source: ev.Source, Context: ev.Context, Type: ev.Type, Status: status, Reason: reason,
		Detail: errs.MessageOf(err), Violations: errs.ViolationsOf(err), Receipt: ev.Receipt, At: time.Now(),
	}
	if rErr := b.Ledger.Reject(ctx, rej); rErr != nil {
		b.Log.Warn("a rejection was not recorded", "source", ev.Source, "err", rErr)
	}
}
