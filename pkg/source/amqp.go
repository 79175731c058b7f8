package source

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/posthornhq/posthorn/pkg/amqp"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/rawjson"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const (
	// DefaultPrefetch is how many messages of a queue may be unacknowledged at
	// once, where the source does not say.
	DefaultPrefetch = 200
	// maxPrefetch is what AMQP has room for.
	maxPrefetch = 65_535
	// maxAMQPHeaders bounds the headers of a message as JSON: they become one
	// attribute, and travel on in a header.
	maxAMQPHeaders = 8 << 10
)

// Prefixes of CloudEvents attributes in headers of AMQP. The second is for those
// who cannot have a colon there.
var attributePrefixes = []string{"cloudEvents:", "cloudEvents_"}

// A Message is what came out of a queue. The body is not copied: it must not be
// modified as long as the event made of it is in use.
type Message struct {
	Exchange    string
	RoutingKey  string
	Redelivered bool

	ContentType     string
	ContentEncoding string
	MessageID       string
	Type            string
	AppID           string
	UserID          string
	CorrelationID   string
	ReplyTo         string
	Expiration      string
	Priority        uint8
	Timestamp       time.Time
	// Headers have values that JSON has a form for.
	Headers map[string]any
	Body    []byte
}

// amqpQueue is the kind whose events come out of a queue. Over HTTP it takes none.
type amqpQueue struct{}

func (amqpQueue) verify(*Request) (string, error) { return "", ErrNotHTTP }

func (amqpQueue) parse(*Request) (Batch, error) { return Batch{}, ErrNotHTTP }

// ErrNotHTTP refuses requests to a source of kind AMQP.
var ErrNotHTTP = errs.New(errs.Denied, "this source takes its events from a queue of an AMQP broker, and none over HTTP").Because("not-http")

// AMQP returns the broker of a source of kind AMQP, and its settings with the
// defaults filled in; false for another kind.
func (s *Source) AMQP() (amqp.Endpoint, *posthornv1.AmqpSource, bool) {
	if s.spec.GetKind() != posthornv1.Source_AMQP {
		return amqp.Endpoint{}, nil, false
	}
	password := ""
	if len(s.secrets) > 0 {
		password = string(s.secrets[0])
	}
	spec := s.spec.GetAmqp()
	endpoint, err := amqp.Parse("amqp", spec.GetUrl(), spec.GetUsername(), password)
	return endpoint, spec, err == nil // it was validated
}

// ReceiveMessage turns a message of a source of kind AMQP into an event. The
// idempotency key is that of the CloudEvent, or else the message-id.
//
// The event's type is that of the CloudEvent, or else the property type, the
// routing key, or what the source's settings say. The routing key of the default
// exchange is the queue's name and says nothing: there the settings go first.
//
// What the broker and the publisher said beside that becomes extensions:
// amqpexchange, amqproutingkey, amqpredelivered ("true", or not there),
// amqpmessageid, amqpappid, amqpuserid, amqpcorrelationid, amqpreplyto,
// amqpexpiration, amqppriority, amqpcontenttype and amqpcontentencoding (of a body
// that is encoded), and amqpheaders, a JSON object of all headers that are no
// attributes.
//
// What cannot be understood is refused with [errs.Invalid] and reason "malformed".
func (s *Source) ReceiveMessage(m *Message) (Incoming, error) {
	in, rest, err := s.readMessage(m)
	if err != nil {
		return Incoming{}, err
	}
	ev := &in.Event
	if ev.Time.IsZero() && m.Timestamp.Year() > 1 && m.Timestamp.Year() <= 9999 {
		ev.Time = m.Timestamp.UTC()
	}
	if err := setProperties(ev, m); err != nil {
		return Incoming{}, err
	}
	return in, setHeaders(ev, rest)
}

// readMessage reads the event without its properties, and returns the headers
// that are not attributes.
func (s *Source) readMessage(m *Message) (Incoming, map[string]any, error) {
	a := attributes{index: -1, prefix: attributePrefixes[0]}
	rest := make(map[string]any, len(m.Headers))
	for name, value := range m.Headers {
		attribute, ok := cutPrefixes(name)
		if !ok {
			rest[name] = value
			continue
		}
		if attribute == "datacontenttype" {
			return Incoming{}, nil, a.error(attribute, "in binary mode the property content-type says this")
		}
		if err := a.set(strings.ToLower(attribute), headerString(value)); err != nil {
			return Incoming{}, nil, err
		}
	}
	if contentType := mediaType(m.ContentType); hasPrefixFold(contentType, mediaCloudEvents) {
		if !strings.EqualFold(contentType, mediaCloudEvents+"+json") {
			return Incoming{}, nil, malformedField("content-type", "%q is not known; one CloudEvent is in a message, as %s+json", contentType, mediaCloudEvents)
		}
		if !rawjson.Valid(m.Body) {
			return Incoming{}, nil, malformed("the body is not valid JSON")
		}
		in, err := parseStructured(m.Body, -1)
		return in, rest, err
	}
	contentType, err := messageContent(m)
	if err != nil {
		return Incoming{}, nil, err
	}
	a.ev.DataContentType = contentType
	if len(m.Body) > 0 {
		a.ev.Data = m.Body
	}
	if a.specversion != "" || a.ev.ExternalID != "" || a.ev.Type != "" {
		in, err := a.incoming()
		return in, rest, err
	}
	if !cleanText(m.MessageID) {
		return Incoming{}, nil, malformedField("message-id", "is longer than %d bytes, not UTF-8, or has control characters", maxText)
	}
	a.ev.ExternalID = m.MessageID
	a.ev.Type, err = s.messageType(m)
	return Incoming{Event: a.ev, Key: m.MessageID}, rest, err
}

func (s *Source) messageType(m *Message) (string, error) {
	configured := s.spec.GetType()
	switch {
	case m.Type != "":
		return checkType("type", m.Type)
	case m.RoutingKey != "" && (m.Exchange != "" || configured == ""):
		return checkType("routing key", m.RoutingKey)
	case configured != "":
		return configured, nil
	}
	return "", malformed("the message has no type: it has neither property type nor a routing key; set the type of the source")
}

// messageContent returns the content type of the data. Many publishers name none, and
// then anything goes; who says JSON must mean it.
func messageContent(m *Message) (string, error) {
	switch {
	case !cleanText(m.ContentType):
		return "", malformedField("content-type", "is not UTF-8 or has control characters")
	case isEncoded(m.ContentEncoding):
		return "application/octet-stream", nil
	case m.ContentType == "" && len(m.Body) > 0 && !rawjson.Valid(m.Body):
		return "application/octet-stream", nil
	}
	return m.ContentType, checkData(m.ContentType, m.Body)
}

// isEncoded says whether a content encoding changes the bytes. Some publishers
// write the charset there.
func isEncoded(encoding string) bool {
	switch strings.ToLower(encoding) {
	case "", "identity", "utf-8", "utf8", "us-ascii", "ascii", "binary":
		return false
	}
	return true
}

func cutPrefixes(name string) (string, bool) {
	for _, p := range attributePrefixes {
		if len(name) > len(p) && hasPrefixFold(name, p) {
			return name[len(p):], true
		}
	}
	return "", false
}

// headerString writes an attribute's value as CloudEvents does.
func headerString(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	}
	return fmt.Sprint(v)
}

// setProperties sets the extensions that say how a message came. Those of the
// same names that came with it were about another way.
func setProperties(ev *event.Event, m *Message) error {
	contentType, priority, redelivered := "", "", ""
	if isEncoded(m.ContentEncoding) {
		contentType = m.ContentType
	}
	if m.Priority > 0 {
		priority = strconv.Itoa(int(m.Priority))
	}
	if m.Redelivered {
		redelivered = "true"
	}
	for _, p := range []struct{ name, value string }{
		{"amqpexchange", m.Exchange}, {"amqproutingkey", m.RoutingKey}, {"amqpredelivered", redelivered}, {"amqpmessageid", m.MessageID},
		{"amqpappid", m.AppID}, {"amqpuserid", m.UserID}, {"amqpcorrelationid", m.CorrelationID}, {"amqpreplyto", m.ReplyTo},
		{"amqpexpiration", m.Expiration}, {"amqppriority", priority},
		{"amqpcontenttype", contentType}, {"amqpcontentencoding", m.ContentEncoding},
	} {
		if err := setExtension(ev, p.name, p.value); err != nil {
			return err
		}
	}
	return nil
}

func setExtension(ev *event.Event, name, value string) error {
	if value == "" {
		delete(ev.Extensions, name)
		return nil
	}
	if !cleanText(value) {
		return malformedField(name, "is not UTF-8, or has control characters")
	}
	if ev.Extensions == nil {
		ev.Extensions = make(map[string]string)
	}
	ev.Extensions[name] = value
	return nil
}

// setHeaders keeps the headers. Those that are the event's trace are not said twice.
func setHeaders(ev *event.Event, headers map[string]any) error {
	delete(headers, "traceparent")
	delete(headers, "tracestate")
	const name = "amqpheaders"
	delete(ev.Extensions, name)
	if len(headers) == 0 {
		return nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(headers); err != nil {
		return malformedField("headers", "cannot be kept: %v", err)
	}
	text := escapeControls(strings.TrimSuffix(buf.String(), "\n"))
	if len(text) > maxAMQPHeaders {
		return malformedField("headers", "have %d bytes as JSON; at most %d can be kept", len(text), maxAMQPHeaders)
	}
	if ev.Extensions == nil {
		ev.Extensions = make(map[string]string)
	}
	ev.Extensions[name] = text
	return nil
}

// escapeControls writes the control characters that JSON allows in its strings, and
// an attribute does not, as escapes.
func escapeControls(doc string) string {
	if strings.IndexFunc(doc, unicode.IsControl) < 0 {
		return doc
	}
	var b strings.Builder
	for _, r := range doc {
		if unicode.IsControl(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// exchangeTypes are those that a binding can declare.
var exchangeTypes = []string{"topic", "direct", "fanout", "headers"}

func validateAMQP(spec *posthornv1.Source, secrets int) error {
	if spec.GetKind() != posthornv1.Source_AMQP {
		return nil
	}
	s := spec.GetAmqp()
	if _, err := amqp.Parse("amqp", s.GetUrl(), s.GetUsername(), ""); err != nil {
		return err
	}
	// Settings that are about requests would be believed to be followed.
	for _, f := range []struct {
		field string
		set   bool
	}{
		{"policy", spec.GetPolicy() != ""}, {"topics", len(spec.GetTopics()) > 0},
		{"ratePerClient", spec.GetRatePerClient() != 0}, {"ratePerSecond", spec.GetRatePerSecond() != 0},
	} {
		if f.set {
			return errs.Field(f.field, "is for requests; kind AMQP takes none, its broker says who may publish (amqp.prefetch bounds what is in hand)")
		}
	}
	if secrets > 1 {
		return errs.Field("secrets", "kind AMQP has one, the password of amqp.username")
	}
	if s.GetQueue() == "" {
		return errs.Field("amqp.queue", "is required")
	}
	if n := s.GetPrefetch(); n < 0 || n > maxPrefetch {
		return errs.Field("amqp.prefetch", "is %d, must be 1 to %d, or 0 for %d", n, maxPrefetch, DefaultPrefetch)
	}
	for _, n := range []struct{ field, name string }{{"amqp.queue", s.GetQueue()}, {"amqp.deadLetterExchange", s.GetDeadLetterExchange()}} {
		if err := amqp.ValidName(n.field, n.name); err != nil {
			return err
		}
	}
	if !s.GetDeclare() {
		if len(s.GetBindings()) > 0 {
			return errs.Field("amqp.bindings", "are made with amqp.declare only")
		}
		if s.GetDeadLetterExchange() != "" {
			return errs.Field("amqp.deadLetterExchange", "is an argument of the queue, which is declared with amqp.declare only")
		}
	}
	return validateBindings(s)
}

func validateBindings(s *posthornv1.AmqpSource) error {
	for i, b := range s.GetBindings() {
		field := fmt.Sprintf("amqp.bindings[%d]", i)
		switch {
		case b.GetExchange() == "":
			return errs.Field(field+".exchange", "is required; to the default exchange every queue is bound already")
		case b.GetExchangeType() != "" && !slices.Contains(exchangeTypes, b.GetExchangeType()):
			return errs.Field(field+".exchangeType", "is one of %s, or empty for an exchange that is there", strings.Join(exchangeTypes, ", "))
		case b.GetExchangeType() != "" && strings.HasPrefix(b.GetExchange(), "amq."):
			return errs.Field(field+".exchangeType", "%s is the broker's own; leave its type out", b.GetExchange())
		}
		if err := amqp.ValidName(field+".exchange", b.GetExchange()); err != nil {
			return err
		}
		for j, key := range b.GetRoutingKeys() {
			if err := amqp.ValidName(fmt.Sprintf("%s.routingKeys[%d]", field, j), key); err != nil {
				return err
			}
		}
	}
	return nil
}

// Prefetch returns how many messages may be unacknowledged at once.
func Prefetch(s *posthornv1.AmqpSource) int {
	return int(cmp.Or(s.GetPrefetch(), DefaultPrefetch))
}
