package destination

import (
	"context"
	"time"

	"github.com/posthornhq/posthorn/pkg/event"
)

// MaxResponse is how much of a destination's answer is kept, in bytes.
const MaxResponse = 4 << 10

// Error classes of a [Result] without an answer, as in [event.Attempt].ErrorClass.
const (
	ClassTimeout = "timeout" // the attempt's time was up
	ClassConnect = "connect" // nobody there: refused, unreachable
	ClassDNS     = "dns"     // the name does not resolve
	ClassTLS     = "tls"     // no handshake, or a certificate that is not trusted
	ClassBlocked = "blocked" // an address that the platform may not connect to
	ClassClosed  = "closed"  // the connection was cut
	ClassAuth    = "auth"    // our credentials are not taken, or bring no token
	ClassOther   = "other"
	// ClassTransform: there was nothing to send, because the subscription's program
	// failed.
	ClassTransform = "transform"
)

// A Destination is where the deliveries of one subscription go.
// Implementations are immutable and safe for concurrent use.
type Destination interface {
	// Send makes one attempt. ctx carries its deadline, and Send returns soon
	// after ctx is done. It must not modify m, nor keep it.
	Send(ctx context.Context, m *Message) Result

	// String says for people where the deliveries go, without credentials.
	String() string
}

// A Preparer is a [Destination] that can say beforehand what it sends.
type Preparer interface {
	// Prepare returns what Send would send; its Target alone where Send would send
	// nothing. It connects to nothing.
	Prepare(ctx context.Context, m *Message) Request
}

// MaskedValue stands in a [Request] for a credential.
const MaskedValue = "***"

// A Request is what an attempt sends, for people: credentials are masked.
type Request struct {
	Method string // for instance "POST", "PUB"
	Target string // as [Destination].String has it, or more exactly
	Header []HeaderField
	Body   []byte
}

// A HeaderField is one header of a [Request].
type HeaderField struct{ Name, Value string }

// A Message is what one attempt sends.
type Message struct {
	Event    *event.Event
	Delivery *event.Delivery
	// TraceParent is the W3C trace context of the attempt; may be empty.
	TraceParent string
	// Now is the time of the attempt, with which it is signed.
	Now time.Time
}

// A Verdict is how far an attempt got.
type Verdict uint8

const (
	// NoAnswer: whether the destination has the event is not known. Always
	// worth another try.
	NoAnswer Verdict = iota
	// Accepted: the destination has the event.
	Accepted
	// Answered: the destination said something else. Status decides; without a
	// status it is a no for good.
	Answered
)

// A Result is what an attempt taught. Its zero value is an attempt that got no
// answer.
type Result struct {
	Verdict Verdict
	// Status is the HTTP status of the answer, 0 for none and for other kinds.
	Status int
	// RetryAfter is how long the destination asked to be left alone; 0 if it did
	// not ask.
	RetryAfter time.Duration
	// Gone says that the subscription is to be disabled: the destination said
	// that it is gone for good, and the subscription wants that to count.
	Gone bool
	// Reason, if set, is the reason of the dead letter, in one word, where the
	// outcome alone would not say it.
	Reason string
	// ErrorClass is one of the Class constants, empty if there was an answer.
	ErrorClass string
	// Err says why the event is not delivered, nil if it is. Its text is for
	// people: short, valid UTF-8, without credentials and without the query of
	// a URL.
	Err error
	// Response is the beginning of the answer's body, up to [MaxResponse] bytes,
	// as it came: it need not be UTF-8.
	Response []byte
	// Latency is from the first step of the attempt to the last byte read.
	Latency time.Duration
}

// Outcome is the retry policy but for its counting: [event.Delivered];
// [event.Retry] for an attempt without an answer and for statuses that retryable
// accepts; [event.Refused] for all else. Whether a try is left is the caller's to
// know.
func (r *Result) Outcome(retryable func(status int) bool) event.Outcome {
	switch {
	case r.Verdict == Accepted:
		return event.Delivered
	case r.Verdict == NoAnswer:
		return event.Retry
	case r.Status/100 >= 4 && retryable(r.Status):
		return event.Retry
	default:
		// A redirect, or another 2xx than the expected: no policy retries those.
		return event.Refused
	}
}
