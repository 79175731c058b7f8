package topology

import (
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/posthornhq/posthorn/pkg/event"
)

// Names of the streams. A KV bucket b is the stream KV_<b>, an object store o
// the stream OBJ_<o>.
const (
	StreamEvents      = "EVENTS"
	StreamDeliveries  = "DELIVERIES"
	StreamAttempts    = "ATTEMPTS"
	StreamDeadLetters = "DEADLETTERS"
	StreamRejections  = "REJECTIONS"
	StreamAdvisories  = "ADVISORIES"
	StreamAudit       = "AUDIT"
	StreamRequests    = "REQUESTS"

	BucketEvents   = "events"
	BucketConfig   = "config"
	BucketSchemas  = "schemas"
	BucketSecrets  = "secrets"
	BucketIdentity = "identity"
	BucketDedup    = "dedup"
	BucketLanes    = "lanes"
	// BucketForeign has schemas of other platforms.
	BucketForeign = "foreign"
	BucketJobs    = "jobs"

	ObjectsPayloads = "payloads"
)

// Names of the durable consumers that are not made per policy.
const (
	// ConsumerRouter of EVENTS is the router, shared by all brokers.
	ConsumerRouter = "router"
	// ConsumerAdvisories of ADVISORIES turns deliveries that the server gave up
	// into dead letters, shared by all dispatchers.
	ConsumerAdvisories = "undertaker"
	// ConsumerAlerts of DEADLETTERS tells of new dead letters, shared by all brokers.
	ConsumerAlerts = "alerts"
)

// Headers of messages on EVENTS and DELIVERIES.
const (
	HeaderType     = "Posthorn-Type"
	HeaderSource   = "Posthorn-Source"
	HeaderTenant   = "Posthorn-Tenant"
	HeaderContext  = "Posthorn-Context"
	HeaderSchema   = "Posthorn-Schema"   // version, when the data was validated
	HeaderRevision = "Posthorn-Revision" // of the event in KV bucket events
	HeaderPayload  = "Posthorn-Payload"  // "object" when the data is in the object store
	HeaderRound    = "Posthorn-Round"    // of a delivery, when it is not the first
	HeaderTries    = "Posthorn-Tries"    // that a delivery had before it was moved to another lane
	HeaderQueued   = "Posthorn-Queued"   // when it was queued first, in Unix nanoseconds, if it was moved
	HeaderFrom     = "Posthorn-From"     // the sequences it had before, the last one first, with commas
	HeaderPlace    = "Posthorn-Place"    // of an ordered delivery: the sequence of its event's ID on EVENTS
	// W3C trace context. Under its usual name the server would take it as a request
	// to trace the message on its way, and parse all headers of every message.
	HeaderTrace = "Posthorn-Traceparent"
)

// BucketStream returns the name of the stream below a KV bucket.
func BucketStream(bucket string) string { return "KV_" + bucket }

// objectStream returns the name of the stream below an object store.
func objectStream(store string) string { return "OBJ_" + store }

// KeySubject returns the subject below a key of a KV bucket.
func KeySubject(bucket, key string) string { return "$KV." + bucket + "." + key }

// EventSubject returns the subject on EVENTS of an event whose type is encoded
// as tokens (see [github.com/posthornhq/posthorn/pkg/pattern.EncodeType]).
func EventSubject(d event.Direction, context, typeTokens string) string {
	return "events." + d.String() + "." + context + "." + typeTokens
}

// ParseEventSubject reads what [EventSubject] wrote.
func ParseEventSubject(s string) (d event.Direction, context, typeTokens string, err error) {
	rest, ok := strings.CutPrefix(s, "events.")
	if !ok {
		return 0, "", "", fmt.Errorf("topology: subject %q is no event's", s)
	}
	dir, rest, _ := strings.Cut(rest, ".")
	context, typeTokens, _ = strings.Cut(rest, ".")
	d, err = event.ParseDirection(dir)
	return d, context, typeTokens, err
}

// ObjectSubject returns the subject below the description of an object
// (ADR-20 of nats-architecture-and-design).
func ObjectSubject(store, name string) string {
	return "$O." + store + ".M." + base64.URLEncoding.EncodeToString([]byte(name))
}

// EventsOf returns the filter on EVENTS for all events of a context, or of all with "".
func EventsOf(context string) string {
	if context == "" {
		return Everything
	}
	return "events.*." + context + ".>"
}

// DeliverySubject returns the subject on DELIVERIES in the shared lane of a policy.
func DeliverySubject(policy string, p event.Priority, subscription string) string {
	return sharedPrefix + policy + "." + p.String() + "." + subscription
}

// OwnDeliverySubject returns the subject on DELIVERIES in a subscription's own
// lane. Part counts from 1 where an ordered lane has several; 0 is a lane of one.
func OwnDeliverySubject(subscription string, part int) string {
	if part == 0 {
		return ownPrefix + subscription
	}
	return ownPrefix + subscription + "." + strconv.Itoa(part)
}

// OwnDeliveries is the filter on DELIVERIES for all own lanes.
const OwnDeliveries = ownPrefix + ">"

const (
	sharedPrefix = "deliveries.shared."
	ownPrefix    = "deliveries.lane."
)

// ParseDeliverySubject reads what [DeliverySubject] or [OwnDeliverySubject] wrote
// into the fields of a delivery that it is made of.
func ParseDeliverySubject(s string) (d event.Delivery, ok bool) {
	if rest, ok := strings.CutPrefix(s, ownPrefix); ok {
		d.Own = true
		var part string
		d.Subscription, part, ok = strings.Cut(rest, ".")
		if ok {
			n, err := strconv.Atoi(part)
			if err != nil || n < 1 {
				return d, false
			}
			d.Part = n
		}
		return d, d.Subscription != ""
	}
	rest, ok := strings.CutPrefix(s, sharedPrefix)
	if !ok {
		return d, false
	}
	d.Policy, rest, ok = strings.Cut(rest, ".")
	if !ok {
		return d, false
	}
	var prio string
	if prio, d.Subscription, ok = strings.Cut(rest, "."); !ok {
		return d, false
	}
	d.Priority, ok = parsePriority(prio)
	return d, ok
}

func parsePriority(token string) (event.Priority, bool) {
	for _, p := range event.Priorities() {
		if p.String() == token {
			return p, true
		}
	}
	return 0, false
}

// LaneFilter returns what the consumer of a policy and priority takes.
func LaneFilter(policy string, p event.Priority) string {
	return sharedPrefix + policy + "." + p.String() + ".*"
}

// LaneConsumer returns the name of the consumer of a policy and priority.
func LaneConsumer(policy string, p event.Priority) string { return policy + "_" + p.String() }

// OwnLaneConsumer returns the name of the consumer of a subscription's own lane.
func OwnLaneConsumer(subscription string, part int) string {
	if part == 0 {
		return subscription + ownSuffix
	}
	return subscription + ownSuffix + "_" + strconv.Itoa(part)
}

// Names of policies and subscriptions have no underscore.
const ownSuffix = "_lane"

// ParseLaneConsumer reads what [LaneConsumer] wrote.
func ParseLaneConsumer(name string) (policy string, p event.Priority, ok bool) {
	policy, prio, ok := strings.Cut(name, "_")
	if !ok || policy == "" {
		return "", 0, false
	}
	p, ok = parsePriority(prio)
	return policy, p, ok
}

// ParseOwnLaneConsumer reads what [OwnLaneConsumer] wrote.
func ParseOwnLaneConsumer(name string) (subscription string, part int, ok bool) {
	subscription, rest, ok := strings.Cut(name, ownSuffix)
	if !ok || subscription == "" {
		return "", 0, false
	}
	if rest == "" {
		return subscription, 0, true
	}
	part, err := strconv.Atoi(strings.TrimPrefix(rest, "_"))
	return subscription, part, err == nil && part > 0
}

const hexDigits = "0123456789abcdef"

// attemptBucket spreads events over 256 subjects: an index by event in bounded
// memory, since the server keeps every subject of a stream in memory.
func attemptBucket(eventID string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(eventID)) // a hash.Hash never fails to write
	s := h.Sum32()
	b := byte(s) ^ byte(s>>8) ^ byte(s>>16) ^ byte(s>>24)
	return string([]byte{hexDigits[b>>4], hexDigits[b&15]})
}

// Unmatched stands for the subscription in the record of an event that none matched.
const Unmatched = "_"

// AttemptSubject returns the subject on ATTEMPTS of a record about an event.
func AttemptSubject(eventID, subscription, outcome string) string {
	return "attempts." + attemptBucket(eventID) + "." + subscription + "." + outcome
}

// ParseAttemptSubject reads what [AttemptSubject] wrote, but for the event.
func ParseAttemptSubject(s string) (subscription, outcome string, ok bool) {
	rest, ok := strings.CutPrefix(s, "attempts.")
	if !ok {
		return "", "", false
	}
	_, rest, _ = strings.Cut(rest, ".")
	return strings.Cut(rest, ".")
}

// AttemptFilter returns the filter on ATTEMPTS that holds all records about an
// event, and those of the others in its bucket.
func AttemptFilter(eventID string) string { return "attempts." + attemptBucket(eventID) + ".>" }

// DeadLetterSubject returns the subject on DEADLETTERS of a subscription.
func DeadLetterSubject(subscription string) string { return "deadletters." + subscription }

// RejectionSubject returns the subject on REJECTIONS.
func RejectionSubject(source, status string) string { return "rejections." + source + "." + status }

// RejectionFilter returns the filter on REJECTIONS for a source, or for all with "".
func RejectionFilter(source string) string {
	if source == "" {
		return "rejections.*.*"
	}
	return "rejections." + source + ".*"
}

// AuditSubject returns the subject on AUDIT of a change to a resource.
func AuditSubject(kind, name string) string { return "audit." + kind + "." + name }

// RequestSubject returns the subject on REQUESTS of a source's requests that were
// taken, or refused: each have a place of their own, so that a flood of refused
// ones does not push out the others.
func RequestSubject(source string, refused bool) string {
	if refused {
		return "requests." + source + ".refused"
	}
	return "requests." + source + ".taken"
}

// RequestFilter returns the filter on REQUESTS for a source.
func RequestFilter(source string) string { return "requests." + source + ".*" }

// Live subjects, for those who watch as it happens with core NATS.
const (
	LiveAttempts   = "attempts.>"
	LiveDeliveries = "deliveries.>"
	LiveEvents     = "events.>"
)

// Everything is the filter for all messages of a stream. The server counts what is
// behind a message at each read; by this filter it need not look at subjects for it,
// which with millions of messages takes longer than the read.
const Everything = ">"

// NextSubject is where a pull request for a consumer goes.
func NextSubject(stream, consumer string) string {
	return "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + consumer
}
