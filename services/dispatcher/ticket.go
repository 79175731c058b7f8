package dispatcher

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/queue"
)

// A Sealer seals what leaves the platform and must come back unchanged. It is
// satisfied by *seal.Sealer.
type Sealer interface {
	Seal(plain []byte, aad string) ([]byte, error)
	Open(sealed []byte, aad string) ([]byte, error)
}

// A ticket is what a token says: the lease, and what is recorded when it ends. It
// is all there is of a lease, so that any process takes an answer.
type ticket struct {
	Reply    string    `json:"r"`
	Event    string    `json:"e"`
	Type     string    `json:"t"`
	Source   string    `json:"s,omitempty"`
	Round    int       `json:"n"`
	Attempt  int       `json:"a"`
	Sequence uint64    `json:"q"`
	Place    uint64    `json:"l,omitempty"`
	Queued   time.Time `json:"w"`
	Received time.Time `json:"v"`
	Trace    string    `json:"p,omitempty"` // of the delivery
	Own      string    `json:"o,omitempty"` // of this try
	At       time.Time `json:"h"`           // when it was handed out
	Until    time.Time `json:"u"`           // when the lease runs out

	subscription string // which the token is sealed for
}

func newTicket(lease *queue.Lease, ev *event.Event, own string, at, until time.Time) *ticket {
	ref, dl := lease.Ref(), lease.Delivery()
	return &ticket{
		Reply: ref.Reply, Event: dl.Event, Type: ev.Type, Source: ev.Source, Round: dl.Round, Attempt: dl.Attempt, Sequence: dl.Sequence,
		Place: dl.Place, Queued: dl.Queued, Received: ev.Received, Trace: ref.Trace, Own: own, At: at, Until: until, subscription: dl.Subscription,
	}
}

// ref returns the lease written down, as far as its end needs it.
func (t *ticket) ref() queue.Ref {
	return queue.Ref{Reply: t.Reply, Trace: t.Trace, Delivery: event.Delivery{
		Event: t.Event, Subscription: t.subscription, Round: t.Round, Own: true, Place: t.Place,
		Attempt: t.Attempt, Sequence: t.Sequence, Queued: t.Queued,
	}}
}

// id names the lease among all.
func (t *ticket) id() string { return leaseID(t.Sequence, t.Attempt) }

func leaseID(sequence uint64, attempt int) string {
	return strconv.FormatUint(sequence, 10) + "." + strconv.Itoa(attempt)
}

// ticketPlace is what a token is sealed for: it is of no use for another subscription.
func ticketPlace(subscription string) string { return "lease." + subscription }

// maxToken bounds what is opened, in bytes.
const maxToken = 8 << 10

func (p *Puller) seal(t *ticket) (string, error) {
	plain, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("dispatcher: token of %s: %w", t.Event, err)
	}
	sealed, err := p.sealer.Seal(plain, ticketPlace(t.subscription))
	if err != nil {
		return "", fmt.Errorf("dispatcher: token of %s: %w", t.Event, err)
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

// open reads a token of a subscription. It says nothing of why one is not taken.
func (p *Puller) open(subscription, token string) (*ticket, error) {
	t := &ticket{subscription: subscription}
	notOurs := errs.Field("token", "is not one that came with a delivery of subscription %q", subscription)
	if token == "" {
		return nil, errs.Field("token", "is required: the one that came with the delivery")
	}
	sealed, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(token) > maxToken {
		return nil, notOurs
	}
	plain, err := p.sealer.Open(sealed, ticketPlace(subscription))
	if err != nil {
		return nil, notOurs
	}
	if err := json.Unmarshal(plain, t); err != nil {
		return nil, notOurs
	}
	return t, nil
}
