package topology

import (
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/posthornhq/posthorn/pkg/event"
)

// Router returns the consumer of EVENTS that all brokers share. It begins at
// sequence from; 0 is the stream's first.
func Router(from uint64) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Durable:     ConsumerRouter,
		Description: "Matches every accepted event with the subscriptions and queues its deliveries.",
		AckPolicy:   jetstream.AckExplicitPolicy,
		// A batch of routing takes milliseconds; what a dead broker held comes
		// back after this.
		AckWait:       30 * time.Second,
		MaxDeliver:    -1, // routing is never given up
		MaxAckPending: 20_000,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		Metadata: map[string]string{
			"posthorn.reader": "services/broker",
			// For "nats server check consumer": this many wait only if no broker runs.
			"io.nats.monitor.enabled": "1", "io.nats.monitor.unprocessed-critical": "100000",
		},
	}
	if from > 0 {
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	}
	return c
}

// Advisories returns the consumer of ADVISORIES that all dispatchers share.
func Advisories() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       ConsumerAdvisories,
		Description:   "Turns deliveries that the server gave up into dead letters.",
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       30 * time.Second,
		MaxDeliver:    -1,
		MaxAckPending: 1_000,
		FilterSubject: "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + StreamDeliveries + ".*",
		Metadata:      map[string]string{"posthorn.reader": "services/dispatcher"},
	}
}

// Alerts returns the consumer of DEADLETTERS that all brokers share. It begins with
// those that come after it was made: an upgrade tells of no old ones.
func Alerts() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       ConsumerAlerts,
		Description:   "Tells of new dead letters by events.",
		AckPolicy:     jetstream.AckExplicitPolicy,
		DeliverPolicy: jetstream.DeliverNewPolicy,
		// The newest of those that are told together waits for up to a minute.
		AckWait:       3 * time.Minute,
		MaxDeliver:    -1,
		MaxAckPending: 20_000,
		Metadata:      map[string]string{"posthorn.reader": "services/broker"},
	}
}

// Lane returns the consumer of DELIVERIES for a policy and priority, shared by
// all dispatchers. The schedule of retries goes through delayed naks, since
// BackOff on a consumer would replace AckWait and be added to them; describe
// shows it to operators as metadata.
func Lane(policy string, p event.Priority, maxDeliver int, ackWait time.Duration, describe map[string]string) jetstream.ConsumerConfig {
	meta := map[string]string{
		"posthorn.reader": "services/dispatcher", "posthorn.policy": policy,
		"io.nats.monitor.enabled": "1", "io.nats.monitor.unprocessed-critical": "1000000",
	}
	maps.Copy(meta, describe)
	return jetstream.ConsumerConfig{
		Durable:       LaneConsumer(policy, p),
		Description:   "Deliveries of policy " + policy + " with " + p.String() + " priority.",
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    maxDeliver,
		FilterSubject: LaneFilter(policy, p),
		// Those that wait for their next try are pending too, and must not stop
		// the ones behind them.
		MaxAckPending: 1_000_000,
		MaxWaiting:    2_048,
		Metadata:      meta,
	}
}

// An OwnLane says what the consumer of a subscription's own lane is like.
type OwnLane struct {
	Subscription string
	// Part counts from 1 where an ordered lane has several; 0 is a lane of one.
	Part int
	// Ordered lanes hand out one delivery at a time.
	Ordered bool
	// MaxDeliver is how often a delivery is handed out; -1 is without end.
	MaxDeliver int
	AckWait    time.Duration
	// Describe is shown to operators as metadata.
	Describe map[string]string
}

// Consumer returns the consumer of DELIVERIES of a subscription's own lane, shared
// by all dispatchers (or by those who pull).
func (l OwnLane) Consumer() jetstream.ConsumerConfig {
	meta := map[string]string{"posthorn.reader": "services/dispatcher", "posthorn.subscription": l.Subscription}
	maps.Copy(meta, l.Describe)
	c := jetstream.ConsumerConfig{
		Durable:       OwnLaneConsumer(l.Subscription, l.Part),
		Description:   "Deliveries of subscription " + l.Subscription + " in a lane of its own.",
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       l.AckWait,
		MaxDeliver:    l.MaxDeliver,
		FilterSubject: OwnDeliverySubject(l.Subscription, l.Part),
		MaxAckPending: 1_000_000,
		MaxWaiting:    2_048,
		Metadata:      meta,
	}
	if l.Ordered {
		// One that waits for its next try is pending too: nothing passes it.
		c.MaxAckPending = 1
	}
	return c
}
