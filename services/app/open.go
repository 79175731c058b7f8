package app

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	gonats "github.com/nats-io/nats.go"

	"github.com/posthornhq/posthorn/jetstream/topology"
	"github.com/posthornhq/posthorn/pkg/config"
	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/amqp"
	"github.com/posthornhq/posthorn/pkg/destination/nats"
	"github.com/posthornhq/posthorn/pkg/destination/webhook"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/netguard"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/transform"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// opener makes destinations, with what those of a kind share. The dispatcher sends
// deliveries to them, the Master API test events.
type opener struct {
	webhooks   *webhook.Client
	nats       *nats.Client
	amqp       *amqp.Pool
	transforms *transform.Runner
}

// newOpener returns an opener. platform is a connection of the platform's own.
func newOpener(cfg *config.Config, platform *gonats.Conn, log *slog.Logger) *opener {
	guard := netguard.New(cfg.AllowNet)
	return &opener{
		transforms: transform.NewRunner(),
		amqp:       amqp.NewPool(guard, log, amqp.Config{Name: "posthorn"}),
		webhooks:   webhook.NewClient(guard, webhook.Config{MaxIdlePerHost: max(cfg.Dispatch.Concurrency, 128)}),
		nats:       nats.NewClient(guard, log, nats.Config{Platform: platform, OwnSubjects: ownSubjects()}),
	}
}

// ownSubjects returns the first tokens of what the platform's streams take.
func ownSubjects() []string {
	var first []string
	for _, a := range topology.Assets(topology.Config{}) {
		for _, subject := range a.Stream.Subjects {
			token, _, _ := strings.Cut(subject, ".")
			first = append(first, token)
		}
	}
	slices.Sort(first)
	return slices.Compact(first)
}

// Open returns the destination of a subscription, with the subscription's program
// before it, where it has one. It connects to nothing yet.
func (o *opener) Open(sub *subscription.Subscription) (destination.Destination, error) {
	dest, err := o.kind(sub)
	if err != nil {
		return nil, err
	}
	return o.transforms.Wrap(dest, sub.Transform), nil
}

func (o *opener) kind(sub *subscription.Subscription) (destination.Destination, error) {
	switch kind := sub.Spec.GetDestination().GetKind().(type) {
	case *posthornv1.Destination_Webhook:
		return webhook.New(o.webhooks, kind.Webhook, sub.Name, sub.Secrets)
	case *posthornv1.Destination_Nats:
		return nats.New(o.nats, kind.Nats)
	case *posthornv1.Destination_Amqp:
		return amqp.New(o.amqp, kind.Amqp, sub.Name)
	default:
		return nil, errs.New(errs.Invalid, "events are not sent to the destination of subscription %q", sub.Name)
	}
}

// run keeps what the destinations share until ctx is done.
func (o *opener) run(ctx context.Context) error {
	err := o.amqp.Run(ctx)
	o.webhooks.Close()
	o.nats.Close()
	return err
}
