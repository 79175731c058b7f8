package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/slowbody"
	"github.com/posthornhq/posthorn/pkg/source"
	"github.com/posthornhq/posthorn/pkg/telemetry"
)

// serve is the way of a publisher's request: POST /events/{source}[/{topic}] or
// /events/{context}/{source}[/{topic}].
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	if r.Method == http.MethodOptions {
		g.allow(w, r)
		return
	}
	src, topic, err := g.find(r)
	if err != nil {
		g.refuse(w, r, src, nil, err, begun)
		return
	}
	batch, err := g.read(w, r, src, topic, begun)
	if err != nil {
		g.refuse(w, r, src, batch.Steps, err, begun)
		return
	}
	if batch.Reply != nil {
		g.reply(w, src, batch.Reply, begun)
		g.record(r, src, batch.Steps, batch.Reply.Status, begun)
		return
	}
	// A publisher that hangs up does not end what was begun.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), acceptTimeout)
	defer cancel()
	if len(batch.Events) == 1 && batch.Dropped == 0 {
		in := &batch.Events[0]
		receipt, err := g.accept.Accept(ctx, in.Event, in.Key)
		if err != nil {
			status := g.problem(w, r, src, err) // the broker has recorded it
			g.record(r, src, batch.Steps, status, begun)
			return
		}
		g.metrics.answered(src.Name(), begun)
		writeJSON(w, http.StatusAccepted, receiptJSON(receipt))
		g.record(r, src, batch.Steps, http.StatusAccepted, begun)
		return
	}
	status := g.acceptAll(ctx, w, r, src, batch, begun)
	g.record(r, src, batch.Steps, status, begun)
}

// find returns the source that a path names, and the topic behind it. A source
// that is disabled is returned beside the error, so that its record says so.
func (g *Gateway) find(r *http.Request) (*source.Source, string, error) {
	if r.Method != http.MethodPost {
		return nil, "", errMethod
	}
	return g.named(r)
}

func (g *Gateway) named(r *http.Request) (*source.Source, string, error) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/events/"), "/")
	src, ok := g.catalog.Source(event.DefaultContext, first)
	if !ok && rest != "" {
		// A context may not share a source's name, so there is one reading.
		var second string
		second, rest, _ = strings.Cut(rest, "/")
		src, ok = g.catalog.Source(first, second)
	}
	if !ok {
		return nil, "", errs.New(errs.NotFound, "there is no source for %s; `posthorn source list` shows those that there are", r.URL.Path).Because("unknown-source")
	}
	if src.Spec().GetDisabled() {
		return src, "", errs.New(errs.Denied, "source %s is disabled", src.Name()).Because("disabled")
	}
	if _, _, ok := src.AMQP(); ok {
		return src, "", source.ErrNotHTTP
	}
	return src, rest, nil
}

var errTooSlow = errs.New(errs.Invalid, "the body came too slowly; nothing of it was taken").Because("too-slow")

var errMethod = errs.New(errs.Invalid, "events are sent with POST").Because("method")

// read checks a request and reads its events.
func (g *Gateway) read(w http.ResponseWriter, r *http.Request, src *source.Source, topic string, now time.Time) (source.Batch, error) {
	if err := g.limits.admit(src, g.remote(r), now); err != nil {
		return source.Batch{}, err
	}
	body, err := g.body(w, r)
	if err != nil {
		return source.Batch{}, err
	}
	req := &source.Request{
		Method: r.Method, Scheme: scheme(r), Host: r.Host, Path: r.URL.EscapedPath(), RawQuery: r.URL.RawQuery,
		Topic: topic, Header: r.Header, Body: body, Now: now,
	}
	if src.Policy() != "" {
		req.Check = func(secrets [][]byte) ([]event.Step, error) { return g.check(r, src, body, secrets, now) }
	}
	batch, err := src.Receive(req)
	if err != nil {
		return batch, err
	}
	if len(batch.Events) > g.cfg.MaxBatch {
		return batch, errs.New(errs.TooLarge, "the request has %d events, at most %d are taken at once", len(batch.Events), g.cfg.MaxBatch).Because("too-large")
	}
	// Without one of the publisher's own, the broker begins a trace.
	var traceparent, tracestate string
	if len(r.Header["Traceparent"]) > 0 {
		traceparent, tracestate = telemetry.Extract(r.Header)
	}
	correlation := Correlation(r.Header[CorrelationHeader], now)
	for i := range batch.Events {
		ev := &batch.Events[i].Event
		ev.Source, ev.Context, ev.Direction, ev.Received = src.Name(), src.Context(), event.Incoming, now.UTC()
		ev.TraceParent, ev.TraceState = traceparent, tracestate
		// Each has a list of its own, to which the next on the way append.
		ev.CorrelationIDs = append(make([]string, 0, len(correlation)+2), correlation...)
		ev.Receipt = append(ev.Receipt, batch.Steps...)
	}
	return batch, nil
}

// body reads a request's body, which the limit bounds before anything is stored. How
// slowly it may come is not the gateway's to say, but the server's (pkg/slowbody).
func (g *Gateway) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > g.cfg.MaxBytes {
		return nil, g.tooLarge()
	}
	if n := r.ContentLength; n >= 0 {
		body := make([]byte, n)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			if slowbody.TooSlow(err) {
				return nil, errTooSlow
			}
			return nil, errs.Wrap(err, errs.Invalid, "the body ended before its Content-Length").Because("malformed")
		}
		return body, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, g.cfg.MaxBytes))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, g.tooLarge()
	}
	if slowbody.TooSlow(err) {
		return nil, errTooSlow
	}
	if err != nil {
		return nil, errs.Wrap(err, errs.Invalid, "the body could not be read").Because("malformed")
	}
	return body, nil
}

func (g *Gateway) tooLarge() error {
	return errs.New(errs.TooLarge, "the body has more than %d bytes, which is the limit", g.cfg.MaxBytes).Because("too-large")
}

// CorrelationHeader carries the IDs of those who handled a message before (C18).
const CorrelationHeader = "X-Correlation-Id"

// Correlation returns the IDs in the values of [CorrelationHeader], and one of ours
// behind them.
func Correlation(values []string, now time.Time) []string {
	var ids []string
	for _, v := range values {
		for id := range strings.SplitSeq(v, ",") {
			if id = strings.TrimSpace(id); telemetry.ParseCorrelation(id) == nil && len(ids) < 16 {
				ids = append(ids, telemetry.External(id))
			}
		}
	}
	return append(ids, telemetry.NewCorrelationID(telemetry.Gateway, now))
}

// acceptAll answers a request of several events, and returns the status. Our own failure is one of the
// whole request as long as nothing of it was accepted anew. A duplicate was
// accepted before, and would otherwise tell a publisher who looks at the status
// alone that the events beside it are safe too.
func (g *Gateway) acceptAll(ctx context.Context, w http.ResponseWriter, r *http.Request, src *source.Source, batch source.Batch, begun time.Time) int {
	publishes := make([]event.Publish, len(batch.Events))
	for i := range batch.Events {
		publishes[i] = event.Publish{Event: batch.Events[i].Event, Key: batch.Events[i].Key}
	}
	g.metrics.droppedBy(src.Name(), batch.Dropped)
	var results []event.Result
	if len(publishes) > 0 {
		results = g.accept.AcceptAll(ctx, publishes)
	}
	accepted, fresh := 0, 0
	var worst error
	for i := range results {
		switch err := results[i].Err; {
		case err != nil:
			if worst == nil || ours(err) && !ours(worst) {
				worst = err
			}
		case results[i].Receipt.Duplicate:
			accepted++
		default:
			accepted++
			fresh++
		}
	}
	if worst != nil && (accepted == 0 || fresh == 0 && ours(worst)) {
		return g.problem(w, r, src, worst)
	}
	if worst != nil && ours(worst) {
		g.log.Error("a request was taken in part", "source", src.Name(), "events", len(results), "accepted", accepted, "err", worst)
	}
	g.metrics.answered(src.Name(), begun)
	writeJSON(w, http.StatusAccepted, resultsJSON(results, batch.Dropped))
	return http.StatusAccepted
}

// ours reports whether a failure is the platform's and may pass.
func ours(err error) bool {
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Full, errs.Internal, errs.Throttled:
		return true
	}
	return false
}

// rejectTimeout bounds the recording of a rejection, for which the answer waits.
const rejectTimeout = 2 * time.Second

// refuse answers a request that the gateway itself refuses, and records it.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, src *source.Source, steps []event.Step, err error, begun time.Time) {
	status := g.problem(w, r, src, err)
	g.metrics.rejected.WithLabelValues(errs.ReasonOf(err)).Inc()
	if src == nil {
		return // a stranger's guess; recording them would be their tool
	}
	g.record(r, src, steps, status, begun)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), rejectTimeout)
	defer cancel()
	rej := &event.Rejection{
		Source: src.Name(), Context: src.Context(), Status: status, Reason: errs.ReasonOf(err), Detail: errs.MessageOf(err),
		Violations: errs.ViolationsOf(err), Receipt: steps, RemoteAddr: g.remote(r), At: time.Now(),
	}
	if err := g.rejections.Reject(ctx, rej); err != nil {
		g.log.Warn("a rejection was not recorded", "source", src.Name(), "reason", rej.Reason, "err", err)
	}
}

// receiptJSON is the answer for a single event.
func receiptJSON(r event.Receipt) []byte {
	b := make([]byte, 0, 96+2*len(r.ID))
	b = append(b, `{"id":"`...)
	b = append(b, r.ID...) // an ID needs no escaping
	b = append(b, `","ids":["`...)
	b = append(b, r.ID...)
	b = append(b, `"],"duplicate":`...)
	b = strconv.AppendBool(b, r.Duplicate)
	return append(b, '}')
}
