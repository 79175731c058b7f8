package app

import (
	"fmt"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/amqp"
	"github.com/posthornhq/posthorn/pkg/destination/webhook"
	"github.com/posthornhq/posthorn/pkg/subscription"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// opener makes destinations, with what those of a kind share.
type opener struct {
	webhooks *webhook.Client
	amqp     *amqp.Pool
}

func (o *opener) open(sub *subscription.Subscription) (destination.Destination, error) {
	switch kind := sub.Spec.GetDestination().GetKind().(type) {
	case *posthornv1.Destination_Webhook:
		return webhook.New(o.webhooks, kind.Webhook, sub.Name, sub.Secrets)
	case *posthornv1.Destination_Amqp:
		return amqp.New(o.amqp, kind.Amqp, sub.Name)
	default:
		return nil, fmt.Errorf("app: subscription %s: no destination of kind %T", sub.Name, kind)
	}
}
