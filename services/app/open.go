package app

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/nats"
	"github.com/posthornhq/posthorn/pkg/destination/webhook"
	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/netguard"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// opener makes destinations, with what those of a kind share. The dispatcher sends
// deliveries to them, the Master API test events.
type opener struct {
	webhooks *webhook.Client
	nats     *nats.Client
}

func newOpener(allow []netip.Prefix, concurrency int, log *slog.Logger) *opener {
	guard := netguard.New(allow)
	return &opener{
		webhooks: webhook.NewClient(guard, webhook.Config{MaxIdlePerHost: max(concurrency, 128)}),
		nats:     nats.NewClient(guard, log, nats.Config{}),
	}
}

// Open returns the destination of a subscription. It connects to nothing yet.
func (o *opener) Open(sub *subscription.Subscription) (destination.Destination, error) {
	switch kind := sub.Spec.GetDestination().GetKind().(type) {
	case *posthornv1.Destination_Webhook:
		return webhook.New(o.webhooks, kind.Webhook, sub.Name, sub.Secrets)
	case *posthornv1.Destination_Nats:
		return nats.New(o.nats, kind.Nats)
	default:
		return nil, errs.New(errs.Invalid, "events are not sent to the destination of subscription %q", sub.Name)
	}
}

// run keeps what the destinations share until ctx is done.
func (o *opener) run(ctx context.Context) error {
	<-ctx.Done()
	o.webhooks.Close()
	o.nats.Close()
	return nil
}
