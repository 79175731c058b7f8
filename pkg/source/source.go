package source

import (
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// A Request is what a publisher sent. The body is not copied: it must not be
// modified as long as events made of it are in use.
type Request struct {
	Method string
	// Scheme ("http" or "https"), Host (with its port, if there is one), Path (as
	// it came, escaped) and RawQuery are of the URL as the platform knows it. They
	// are for kinds whose publishers sign the URL, and may be empty for others.
	Scheme, Host, Path, RawQuery string
	// Topic is what stands in the path after the source's name; may be empty.
	Topic  string
	Header http.Header
	Body   []byte
	Now    time.Time
	// Check, if set, is asked between the verification and the reading of events:
	// the security of the source's policy, to which the source lends its secrets.
	Check func(secrets [][]byte) ([]event.Step, error)
}

// An Incoming is one event of a request. ID, Source, Context, Direction and
// Received of the event are left for the gateway to fill.
type Incoming struct {
	Event event.Event
	// Key is the idempotency key, unique within the source; empty for none.
	Key string
}

// A Batch is what a request held, in the order that it came.
type Batch struct {
	Events []Incoming
	// Dropped counts the events that the source's settings do not want.
	Dropped int
	// Steps is what was done to the request so far, for the receipts of its
	// events, or of its rejection.
	Steps []event.Step
	// Reply is what the publisher wants to hear instead of the usual answer, for
	// instance the challenge of Slack's url_verification; nil for the usual one.
	// There are no events beside it.
	Reply *Reply
}

// A Reply is an HTTP answer.
type Reply struct {
	Status      int
	ContentType string
	Body        []byte
}

// A Source is ready to receive. It may be used concurrently.
type Source struct {
	spec    *posthornv1.Source
	kind    kind
	secrets [][]byte
	// topics are the enabled ones, nil if all are.
	topics map[string]bool
	// elsewhere is the source as it is in its further contexts, by context.
	elsewhere map[string]*Source
}

// A kind is what publishers of one sort have in common.
type kind interface {
	// verify says who sent the request, for the receipt, or refuses it as
	// Unauthenticated. Kinds that leave this to their policy say nothing.
	verify(r *Request) (detail string, err error)
	// parse turns a verified request into events, or refuses it as Invalid.
	parse(r *Request) (Batch, error)
}

// Compile prepares a source for requests. Secrets are in clear, the current one
// first; those in spec are not looked at, and not kept. Errors are those of
// [Validate].
func Compile(spec *posthornv1.Source, secrets []string) (*Source, error) {
	kept := proto.CloneOf(spec)
	kept.Secrets = secrets
	err := Validate(kept, len(secrets))
	kept.Secrets = nil
	if err != nil {
		return nil, fmt.Errorf("source: compile %q: %w", spec.GetName(), err)
	}
	raw := make([][]byte, len(secrets))
	for i, s := range secrets {
		raw[i] = []byte(s)
	}
	k, err := newKind(kept, raw)
	if err != nil {
		return nil, fmt.Errorf("source: compile %q: %w", spec.GetName(), err)
	}
	src := &Source{spec: kept, kind: k, secrets: raw, topics: setOf(kept.GetTopics())}
	for _, c := range kept.GetContexts() {
		there := *src
		there.spec = proto.CloneOf(kept)
		there.spec.Context, there.elsewhere = c.GetContext(), nil
		if len(c.GetTopics()) > 0 {
			there.spec.Topics, there.topics = c.GetTopics(), setOf(c.GetTopics())
		}
		if src.elsewhere == nil {
			src.elsewhere = make(map[string]*Source, len(kept.GetContexts()))
		}
		src.elsewhere[c.GetContext()] = &there
	}
	return src, nil
}

// setOf returns a set of topics in their normal form, nil of none.
func setOf(topics []string) map[string]bool {
	if len(topics) == 0 {
		return nil
	}
	set := make(map[string]bool, len(topics))
	for _, t := range topics {
		set[pattern.Normal(t)] = true
	}
	return set
}

// In returns the source as it is in a context, if it is there.
func (s *Source) In(context string) (*Source, bool) {
	if s.Context() == context {
		return s, true
	}
	there, ok := s.elsewhere[context]
	return there, ok
}

func newKind(spec *posthornv1.Source, secrets [][]byte) (kind, error) {
	switch spec.GetKind() {
	case posthornv1.Source_GENERIC:
		return generic{defaultType: spec.GetType()}, nil
	case posthornv1.Source_CLOUDEVENTS:
		return cloudEvents{}, nil
	case posthornv1.Source_GITHUB:
		return newGitHub(secrets), nil
	case posthornv1.Source_AUTH0:
		return newAuth0(spec.GetAuth0(), secrets), nil
	case posthornv1.Source_HMAC:
		return newHMAC(spec, secrets)
	case posthornv1.Source_STRIPE:
		return newStripe(secrets, spec.GetType()), nil
	case posthornv1.Source_SLACK:
		return newSlack(secrets, spec.GetType()), nil
	case posthornv1.Source_SHOPIFY:
		return newShopify(secrets), nil
	case posthornv1.Source_STANDARD_WEBHOOKS:
		return newStandard(secrets, spec.GetType())
	case posthornv1.Source_TWILIO:
		return newTwilio(spec, secrets), nil
	case posthornv1.Source_GITLAB:
		return newGitLab(secrets)
	case posthornv1.Source_HEADER:
		return newHeader(spec, secrets)
	case posthornv1.Source_JSON_FIELD:
		return newJSONField(spec, secrets)
	case posthornv1.Source_AMQP:
		return amqpQueue{}, nil
	}
	// A kind that is in the protos alone must not be taken for one that lets
	// everybody in.
	return nil, fmt.Errorf("kind %s is not implemented", spec.GetKind())
}

// Spec returns the source as it was compiled, without secrets. It must not be
// modified.
func (s *Source) Spec() *posthornv1.Source { return s.spec }

// Name returns the source's name.
func (s *Source) Name() string { return s.spec.GetName() }

// Context returns the environment that the source is in.
func (s *Source) Context() string {
	if c := s.spec.GetContext(); c != "" {
		return c
	}
	return event.DefaultContext
}

// Policy returns the name of the policy that requests must pass, or "".
func (s *Source) Policy() string { return s.spec.GetPolicy() }

// SchemaMode returns what becomes of events that do not satisfy their schema.
// The default is REJECT, and WARN for kind AUTH0, whose records gain and lose
// fields without notice.
func (s *Source) SchemaMode() posthornv1.Source_SchemaMode {
	switch mode := s.spec.GetSchemaMode(); {
	case mode != posthornv1.Source_SCHEMA_MODE_UNSPECIFIED:
		return mode
	case s.spec.GetKind() == posthornv1.Source_AUTH0:
		return posthornv1.Source_WARN
	}
	return posthornv1.Source_REJECT
}

// Receive verifies a request and turns it into events, all of them or none.
//
// Who cannot be verified is refused with [errs.Unauthenticated] and reason
// "signature", a topic that is not enabled with [errs.NotFound] and reason
// "unknown-topic", what cannot be understood with [errs.Invalid] and reason
// "malformed". With an error too the batch has the steps that were taken.
func (s *Source) Receive(r *Request) (Batch, error) {
	began := time.Now()
	detail, err := s.kind.verify(r)
	steps := verifyStep(r, detail, err, began)
	if err != nil {
		return Batch{Steps: steps}, err
	}
	if r.Check != nil {
		more, err := r.Check(s.secrets)
		steps = append(steps, more...)
		if err != nil {
			return Batch{Steps: steps}, err
		}
	}
	// Which topics there are is told to those alone who may send.
	if s.topics != nil && r.Topic != "" && !s.topics[pattern.Normal(r.Topic)] {
		return Batch{Steps: steps}, errs.New(errs.NotFound, "topic %q is not enabled at source %s", r.Topic, s.Name()).Because("unknown-topic")
	}
	batch, err := s.kind.parse(r)
	if err != nil {
		return Batch{Steps: steps}, err
	}
	batch.Steps = steps
	return batch, nil
}

// verifyStep is nil where nothing was verified.
func verifyStep(r *Request, detail string, err error, began time.Time) []event.Step {
	step := event.Step{Name: "verify", Outcome: "ok", Detail: detail, At: r.Now}
	if err != nil {
		step.Outcome, step.Detail = "refused", err.Error()
	} else if detail == "" {
		return nil
	}
	step.Took = time.Since(began)
	return []event.Step{step}
}
