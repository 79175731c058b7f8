package app

import (
	"fmt"

	"github.com/posthornhq/posthorn/pkg/destination"
	"github.com/posthornhq/posthorn/pkg/destination/webhook"
	"github.com/posthornhq/posthorn/pkg/subscription"
	"github.com/posthornhq/posthorn/pkg/transform"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// opener makes destinations, with what those of a kind share.
type opener struct {
	webhooks   *webhook.Client
	transforms *transform.Runner
}

// open returns the destination of a subscription, with the subscription's program
// before it, where it has one.
func (o *opener) open(sub *subscription.Subscription) (destination.Destination, error) {
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
	default:
		return nil, fmt.Errorf("app: subscription %s: no destination of kind %T", sub.Name, kind)
	}
}
