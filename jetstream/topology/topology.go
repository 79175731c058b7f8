package topology

import (
	"cmp"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Config is what operators may choose. The zero value is usable.
type Config struct {
	// Replicas of every stream and bucket. Default 1.
	Replicas int
	// Storage of every stream. Default file.
	Storage jetstream.StorageType
	// Budget is the disk that streams without a limit of their own share, in
	// bytes. Default 32 GiB.
	Budget int64

	// Limits in bytes; 0 is a share of Budget when the stream is made, and what
	// the stream has already when it is there. EventsBytes is also the limit of the
	// payloads without one of their own, and of the IDs of the events.
	EventsBytes, PayloadsBytes, DeliveriesBytes, AttemptsBytes, DeadLettersBytes, RejectionsBytes int64

	// Ages. Default 31 days, 14 days, 31 days.
	AttemptsAge, DeadLettersAge, RejectionsAge time.Duration
	// EventsAge is when an event is no longer kept, if nothing needs it; by
	// default 14 days. It is held by pkg/store's retention, not by the server,
	// which would not ask who still needs it.
	EventsAge time.Duration
}

func (c *Config) setDefaults() {
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Budget == 0 {
		c.Budget = 32 << 30
	}
	day := 24 * time.Hour
	for _, d := range []struct {
		at  *time.Duration
		def time.Duration
	}{{&c.AttemptsAge, 31 * day}, {&c.DeadLettersAge, 14 * day}, {&c.RejectionsAge, 31 * day}, {&c.EventsAge, 14 * day}} {
		if *d.at == 0 {
			*d.at = d.def
		}
	}
}

// DuplicateWindow is short, because every message ID in it costs server memory;
// the claims of pkg/dedup are what holds for longer. It must outlast a
// publisher's retries through an election.
const DuplicateWindow = 30 * time.Second

// An Asset is a stream, or the stream below a bucket, with who uses it.
type Asset struct {
	Stream jetstream.StreamConfig
	// Writer is the one package that writes to it; Readers read.
	Writer, Readers string
	// auto says that the byte limit is a share of the budget, to be left alone
	// once the stream is there.
	auto bool
	// follows says that the byte limit is that of the events: it grows when theirs
	// does, and is left alone otherwise, since streams that were made when it was a
	// share of the budget are no reason to refuse a configuration.
	follows bool
}

// Assets returns every asset, in the order of an event's way.
func Assets(c Config) []Asset {
	c.setDefaults()
	assets := []Asset{
		kv(BucketEvents, "Accepted events: key is the event's ID, value a line of attributes in JSON and then the data. "+
			"Age and size are held by the broker's retention, which spares what is undelivered.",
			"pkg/store", "dispatcher, api, router (filters)", 1, c.share(c.EventsBytes, 40)),
		objects(ObjectsPayloads, "Data of events above the threshold: the object's name is the event's ID.",
			"pkg/store", "dispatcher, api", c.share(cmp.Or(c.PayloadsBytes, c.EventsBytes), 20), c.PayloadsBytes == 0),
		{
			Stream: jetstream.StreamConfig{
				Name:        StreamEvents,
				Description: "IDs of accepted events in order of acceptance, with what routing needs in headers.",
				Subjects:    []string{"events.>"},
				Retention:   jetstream.LimitsPolicy,
				// A full stream turns publishers away; it does not eat what was accepted.
				Discard:    jetstream.DiscardNew,
				MaxBytes:   c.share(c.EventsBytes, 10),
				Duplicates: DuplicateWindow,
				// A batch that comes in one request is queued as a whole or not at all.
				AllowAtomicPublish: true,
				AllowDirect:        true,
				Metadata:           monitor("router reads it; an unprocessed count that grows means that no broker runs"),
			},
			Writer: "pkg/store", Readers: "router, api", auto: true,
		},
		{
			Stream: jetstream.StreamConfig{
				Name:        StreamDeliveries,
				Description: "Deliveries that wait or are being tried: one message each, gone when settled.",
				Subjects:    []string{"deliveries.shared.*.*.*", "deliveries.lane.*", "deliveries.lane.*.*"},
				Retention:   jetstream.WorkQueuePolicy,
				Discard:     jetstream.DiscardNew, // the router waits, and events keep
				MaxBytes:    c.share(c.DeliveriesBytes, 10),
				Duplicates:  DuplicateWindow,
				// A consumer for every policy and priority, and for every own lane.
				MaxConsumers: -1,
				AllowDirect:  true,
				Metadata:     monitor("backlog of all subscribers together"),
			},
			Writer: "pkg/queue", Readers: "dispatcher", auto: c.DeliveriesBytes == 0,
		},
		record(StreamAttempts, "attempts.*.*.*", "Every attempt at a delivery, and events that nobody subscribes to.",
			"pkg/ledger", "api", c.share(c.AttemptsBytes, 12), c.AttemptsAge, c.AttemptsBytes == 0),
		deadLetters(c),
		record(StreamRejections, "rejections.*.*", "Publishes that were refused, and why.",
			"pkg/ledger", "api", c.share(c.RejectionsBytes, 1), c.RejectionsAge, c.RejectionsBytes == 0),
		advisories(c),
		record(StreamAudit, "audit.*.*", "Who changed which resource, and when.",
			"pkg/audit", "api", c.share(0, 1), 366*24*time.Hour, true),
		requests(),
		kv(BucketConfig, "Sources, subscriptions, policies and settings as JSON: key is <kind>.<name>.",
			"services/api", "every service", 16, 64<<20),
		kv(BucketSchemas, "Schemas of event types: key is <type>.<version>.", "services/registry", "broker, api", 1, 256<<20),
		kv(BucketSecrets, "Secrets of sources and subscriptions, sealed.", "services/api", "gateway, dispatcher", 2, 64<<20),
		kv(BucketIdentity, "Users, API keys and what signs tokens; nothing of it in clear.", "pkg/identity", "gateway, api, broker", 1, 64<<20),
		foreign(),
		dedup(c),
		kv(BucketLanes, "Subscriptions that have a lane of their own, and why: key is the subscription.", "pkg/queue", "dispatcher, router", 1, 64<<20),
		kv(BucketJobs, "Replays of stored events, with how far they are: key is replay.<id>.", "pkg/replay", "broker, api", 1, 64<<20),
	}
	for i := range assets {
		s := &assets[i].Stream
		s.Replicas = c.Replicas
		s.Storage = c.Storage
		if s.Metadata == nil {
			s.Metadata = map[string]string{}
		}
		s.Metadata["posthorn.writer"] = assets[i].Writer
		s.Metadata["posthorn.readers"] = assets[i].Readers
		s.MaxMsgs, s.MaxMsgSize = -1, -1
		if s.MaxConsumers == 0 {
			s.MaxConsumers = -1
		}
		if s.MaxMsgsPerSubject == 0 {
			s.MaxMsgsPerSubject = -1
		}
		if s.Duplicates == 0 {
			s.Duplicates = DuplicateWindow
		}
		if s.Name == BucketStream(BucketEvents) {
			s.Metadata["posthorn.max_age"] = c.EventsAge.String()
			assets[i].auto = c.EventsBytes == 0
		}
		if name := s.Name; c.EventsBytes > 0 && (name == StreamEvents || name == objectStream(ObjectsPayloads) && c.PayloadsBytes == 0) {
			assets[i].auto, assets[i].follows = false, true
		}
	}
	return assets
}

// share returns own, or percent of the budget.
func (c *Config) share(own, percent int64) int64 {
	if own > 0 {
		return own
	}
	return max(c.Budget/100*percent, 16<<20)
}

// monitor makes "nats server check stream" look at a stream. Its thresholds on
// messages are lower ones, which ours have no use for: backlog is what the
// consumers' thresholds are about.
func monitor(note string) map[string]string {
	return map[string]string{"posthorn.note": note, "io.nats.monitor.enabled": "1"}
}

// kv is what nats.go makes of a bucket, so that "nats kv" treats it as one.
func kv(bucket, description, writer, readers string, history int64, bytes int64) Asset {
	return Asset{
		Stream: jetstream.StreamConfig{
			Name:              BucketStream(bucket),
			Description:       description,
			Subjects:          []string{KeySubject(bucket, ">")},
			Retention:         jetstream.LimitsPolicy,
			Discard:           jetstream.DiscardNew,
			MaxMsgsPerSubject: history,
			MaxBytes:          bytes,
			AllowRollup:       true,
			DenyDelete:        true,
			AllowDirect:       true,
		},
		Writer: writer, Readers: readers,
	}
}

func objects(name, description, writer, readers string, bytes int64, auto bool) Asset {
	return Asset{
		Stream: jetstream.StreamConfig{
			Name:        objectStream(name),
			Description: description,
			Subjects:    []string{"$O." + name + ".C.>", "$O." + name + ".M.>"},
			Retention:   jetstream.LimitsPolicy,
			Discard:     jetstream.DiscardNew,
			MaxBytes:    bytes,
			AllowRollup: true,
			AllowDirect: true,
		},
		Writer: writer, Readers: readers, auto: auto,
	}
}

// record is a stream of facts that nobody waits for: the oldest make room.
func record(name, subject, description, writer, readers string, bytes int64, age time.Duration, auto bool) Asset {
	return Asset{
		Stream: jetstream.StreamConfig{
			Name:        name,
			Description: description,
			Subjects:    []string{subject},
			Retention:   jetstream.LimitsPolicy,
			Discard:     jetstream.DiscardOld,
			MaxBytes:    bytes,
			MaxAge:      age,
			AllowDirect: true,
			Metadata:    monitor("a record; the oldest make room"),
		},
		Writer: writer, Readers: readers, auto: auto,
	}
}

// RequestsPerSource is how many requests of a source are kept that were taken, and
// as many that were refused.
const RequestsPerSource = 20

func requests() Asset {
	a := record(StreamRequests, "requests.*.*", "The last requests of each source, without credentials and bodies, for the simulation of policies.",
		"pkg/recording", "api", 64<<20, 24*time.Hour, false)
	a.Stream.MaxMsgsPerSubject = RequestsPerSource
	return a
}

// foreign is a cache: what is oldest makes room, and can be fetched again.
func foreign() Asset {
	a := kv(BucketForeign, "Schemas of other platforms, as they were fetched: key is a hash of the type and the version.",
		"pkg/schema", "broker, registry", 1, 128<<20)
	a.Stream.Discard = jetstream.DiscardOld
	return a
}

func deadLetters(c Config) Asset {
	a := record(StreamDeadLetters, "deadletters.*", "Deliveries that were given up, kept for retry by hand.",
		"pkg/deadletter", "api, broker (alerts)", c.share(c.DeadLettersBytes, 3), c.DeadLettersAge, c.DeadLettersBytes == 0)
	a.Stream.Metadata = monitor("each is a delivery that waits for a person")
	return a
}

func advisories(c Config) Asset {
	a := record(StreamAdvisories, "", "The server's own word on deliveries that ran out of tries or were ended.",
		"the server", "dispatcher", c.share(0, 1), 7*24*time.Hour, true)
	a.Stream.Subjects = []string{
		"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES." + StreamDeliveries + ".*",
		"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED." + StreamDeliveries + ".*",
	}
	return a
}

// dedup is a bucket made by hand: every claim has a time to live of its own,
// and delete markers, which would cost three writes a key, are left out.
func dedup(c Config) Asset {
	a := kv(BucketDedup, "Claims on idempotency keys and deliveries; each expires by itself. Empty when Redis is configured.",
		"pkg/dedup", "pkg/dedup", 1, c.share(0, 2))
	a.Stream.AllowMsgTTL = true
	a.auto = true
	return a
}
