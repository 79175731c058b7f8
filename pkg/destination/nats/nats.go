package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	gonats "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/cloudevent"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// maxSubject is the length of the longest subject, in bytes: the server closes the
// connection of who sends a longer protocol line than 4 KiB, which has the inbox of
// the answer and the sizes too.
const maxSubject = 3800

// NoTenant stands in a subject for the tenant of an event without one.
const NoTenant = "_"

// A Subject delivers the events of one subscription. It implements
// [destination.Destination].
type Subject struct {
	client    *Client
	settings  settings
	shown     string
	template  string
	jetstream bool
	format    posthornv1.Webhook_Format
	static    gonats.Header
}

// New compiles the destination of a subscription, with its credentials. An error is
// an [errs.Invalid] one that names the field and repeats no credential.
func New(c *Client, spec *posthornv1.Nats) (*Subject, error) {
	s := &Subject{
		client: c, template: spec.GetSubject(), jetstream: spec.GetJetstream(), format: spec.GetFormat(), static: gonats.Header{},
		settings: settings{
			url: spec.GetUrl(), credentials: spec.GetCredentials(), token: spec.GetToken(),
			username: spec.GetUsername(), password: spec.GetPassword(),
		},
	}
	switch {
	case spec.GetUrl() == "" || strings.ContainsAny(spec.GetUrl(), "@?#"):
		return nil, errs.Field("destination.nats.url", "is missing, or has more than hosts and ports")
	case s.template == "":
		return nil, errs.Field("destination.nats.subject", "is missing")
	}
	switch s.format {
	case posthornv1.Webhook_FORMAT_UNSPECIFIED:
		s.format = posthornv1.Webhook_CLOUDEVENTS_BINARY
	case posthornv1.Webhook_CLOUDEVENTS_BINARY, posthornv1.Webhook_CLOUDEVENTS_STRUCTURED, posthornv1.Webhook_RAW:
	default:
		return nil, errs.Field("destination.nats.format", "%d is not a format", s.format)
	}
	for name, value := range spec.GetHeaders() {
		s.static[name] = []string{value}
	}
	s.shown = s.settings.url + " " + s.template
	return s, nil
}

// String returns the URL and the template of the subject.
func (s *Subject) String() string { return s.shown }

// subject returns where an event goes.
func (s *Subject) subject(ev *event.Event) (string, error) {
	tokens := strings.Split(s.template, ".")
	for i, t := range tokens {
		switch t {
		case "{type}":
			tokens[i] = pattern.EncodeType(ev.Type)
		case "{tenant}":
			tokens[i] = token(ev.Tenant)
		case "{context}":
			tokens[i] = token(ev.Context)
		}
	}
	subject := strings.Join(tokens, ".")
	switch {
	case len(subject) > maxSubject:
		return "", fmt.Errorf("the subject of this event would be %d bytes long, at most %d are allowed", len(subject), maxSubject)
	case subject != NoTenant && !strings.HasPrefix(subject, NoTenant+".") && strings.HasPrefix(subject, "_"), strings.HasPrefix(subject, "$"):
		return "", fmt.Errorf("the subject of this event would be %q, which belongs to NATS itself", subject)
	}
	return subject, nil
}

// token returns text as one token: as in types, what NATS reserves is
// percent-escaped.
func token(text string) string {
	if text == "" {
		return NoTenant
	}
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c == 0x7f || c == '.' || c == '*' || c == '>' || c == '%' || c == '$' && i == 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// message makes what one attempt sends.
func (s *Subject) message(m *destination.Message, subject string) *gonats.Msg {
	ev := m.Event
	msg := &gonats.Msg{Subject: subject, Header: gonats.Header{}, Data: ev.Data}
	maps.Copy(msg.Header, s.static)
	set := func(name, value string) { msg.Header[name] = []string{value} }
	set(jetstream.MsgIDHeader, ev.ID)
	if m.TraceParent != "" {
		set("traceparent", m.TraceParent)
	}
	if ev.TraceState != "" && printable(ev.TraceState) {
		set("tracestate", ev.TraceState)
	}
	if ids := strings.Join(ev.CorrelationIDs, ", "); ids != "" && printable(ids) {
		set("X-Correlation-Id", ids)
	}
	contentType := ev.ContentType()
	if !printable(contentType) {
		contentType = "application/octet-stream"
	}
	switch s.format {
	case posthornv1.Webhook_CLOUDEVENTS_STRUCTURED:
		set("Content-Type", "application/cloudevents+json")
		msg.Data = cloudevent.Structured(ev)
	case posthornv1.Webhook_CLOUDEVENTS_BINARY:
		cloudevent.Attributes(ev, func(name, value string) { set("ce-"+name, value) })
		set("ce-datacontenttype", cloudevent.Encode(contentType))
		set("Content-Type", contentType)
	default:
		set("Content-Type", contentType)
	}
	return msg
}

// printable reports whether a header can carry text: one line of it.
func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// Prepare implements [destination.Preparer].
func (s *Subject) Prepare(_ context.Context, m *destination.Message) destination.Request {
	subject, err := s.subject(m.Event)
	if err != nil {
		subject = s.template
	}
	msg := s.message(m, subject)
	r := destination.Request{Method: "PUB", Target: s.settings.url + " " + subject, Body: msg.Data}
	for name, values := range msg.Header {
		for _, value := range values {
			if _, own := s.static[name]; own {
				value = destination.MaskedValue
			}
			r.Header = append(r.Header, destination.HeaderField{Name: name, Value: value})
		}
	}
	slices.SortFunc(r.Header, func(a, b destination.HeaderField) int { return strings.Compare(a.Name, b.Name) })
	return r
}

// Send implements [destination.Destination].
func (s *Subject) Send(ctx context.Context, m *destination.Message) destination.Result {
	start := time.Now()
	r := s.send(ctx, m)
	r.Latency = time.Since(start)
	return r
}

func (s *Subject) send(ctx context.Context, m *destination.Message) destination.Result {
	subject, err := s.subject(m.Event)
	if err != nil {
		return refused(err)
	}
	conn := s.client.acquire(s.settings)
	defer s.client.release(conn)
	nc, err := conn.ready(ctx)
	if err != nil {
		return failure(ctx, err)
	}
	if own, known := s.client.own(nc, subject); own {
		return refused(fmt.Errorf("subject %q on this server belongs to the platform's own streams", subject))
	} else if !known {
		return destination.Failed(destination.ClassOther, fmt.Errorf("whether subject %q belongs to the platform's own streams there is not known while the platform itself is without NATS", subject))
	}
	msg := s.message(m, subject)
	if most := nc.MaxPayload(); int64(len(msg.Data)) > most {
		return refused(fmt.Errorf("the message has %d bytes, and the server takes %d", len(msg.Data), most))
	}
	// The server says only beside all else that it did not let a message pass.
	denied := conn.denials.watch(subject)
	defer conn.denials.unwatch(denied)
	if s.jetstream {
		return s.publish(ctx, nc, denied, msg)
	}
	if err := nc.PublishMsg(msg); err != nil {
		return failure(ctx, err)
	}
	if err := nc.FlushWithContext(ctx); err != nil {
		return failure(ctx, err)
	}
	if err := conn.denials.settled(ctx, nc, denied); err != nil {
		return failure(ctx, err)
	}
	return destination.Result{Verdict: destination.Accepted}
}

// publish sends to a stream and waits for its word, or for the server's that the
// message was not let through.
func (s *Subject) publish(ctx context.Context, nc *gonats.Conn, denied *denial, msg *gonats.Msg) destination.Result {
	js, err := jetstream.New(nc)
	if err != nil {
		return failure(ctx, err)
	}
	pubCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := denied.then(cancel)
	defer stop()
	// What is to be tried again is the policy's to say.
	ack, err := js.PublishMsg(pubCtx, msg, jetstream.WithRetryAttempts(0))
	if dErr := denied.err(); dErr != nil {
		return failure(ctx, dErr)
	}
	if err != nil {
		return failure(ctx, err)
	}
	answer, err := json.Marshal(map[string]any{"stream": ack.Stream, "seq": ack.Sequence, "duplicate": ack.Duplicate})
	if err != nil {
		return failure(ctx, err)
	}
	return destination.Result{Verdict: destination.Accepted, Response: answer}
}

// refused is a no for good.
func refused(err error) destination.Result {
	return destination.Result{Verdict: destination.Answered, Err: errors.New(destination.Clean(err.Error()))}
}

// Error codes of JetStream that no retry helps against.
const (
	codeMessageTooLarge jetstream.ErrorCode = 10054
	codeHeadersTooLarge jetstream.ErrorCode = 10097
)

// failure is the result of an attempt that ended in err.
func failure(ctx context.Context, err error) destination.Result {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		text := fmt.Errorf("the stream answered: %s", api.Description)
		if api.ErrorCode == codeMessageTooLarge || api.ErrorCode == codeHeadersTooLarge || api.Code == http.StatusRequestEntityTooLarge {
			return refused(text)
		}
		return destination.Failed(destination.ClassOther, text)
	}
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, gonats.ErrNoResponders):
		return destination.Failed(destination.ClassOther, errors.New("no stream takes this subject (no responders)"))
	case errors.Is(err, gonats.ErrMaxPayload), errors.Is(err, gonats.ErrBadSubject):
		return refused(err)
	case isAuth(err):
		return destination.Failed(destination.ClassAuth, err)
	case errors.Is(err, gonats.ErrConnectionClosed), errors.Is(err, gonats.ErrConnectionReconnecting), errors.Is(err, gonats.ErrDisconnected),
		errors.Is(err, gonats.ErrReconnectBufExceeded), errors.Is(err, gonats.ErrStaleConnection):
		return destination.Failed(destination.ClassClosed, err)
	case errors.Is(err, gonats.ErrTimeout):
		return destination.Failed(destination.ClassTimeout, err)
	case errors.Is(err, gonats.ErrSecureConnWanted), errors.Is(err, gonats.ErrSecureConnRequired):
		return destination.Failed(destination.ClassTLS, err)
	case errors.Is(err, gonats.ErrNoServers):
		return destination.Failed(destination.ClassConnect, err)
	}
	return destination.NoAnswerTo(ctx, err)
}

func isAuth(err error) bool {
	for _, target := range []error{
		gonats.ErrAuthorization, gonats.ErrAuthExpired, gonats.ErrAuthRevoked, gonats.ErrAccountAuthExpired,
		gonats.ErrPermissionViolation, errCredentials,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
