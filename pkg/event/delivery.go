package event

import (
	"strconv"
	"time"
)

// A Delivery is one event for one subscription: an intention.
type Delivery struct {
	Event        string // ID
	Subscription string // name
	// Round is 1 when the event is routed, and one more for every retry by hand. The
	// multiples of 1000 are those of replay jobs.
	Round int
	// Policy is the policy by which it was queued; empty in an own lane, where the
	// subscription's of now counts.
	Policy   string
	Priority Priority
	// Own says that it is in its subscription's own lane. Part is which part of
	// the lane, from 1, where an ordered lane has several by key; else 0.
	Own  bool
	Part int
	// Revision is the event's in KV bucket events, so that it can be read from a
	// replica that lags, and so that retention knows what is still needed.
	Revision uint64
	// Place is where its event stands in the order of acceptance: the sequence of its ID
	// on stream EVENTS. It is known of deliveries of ordered subscriptions, so that a
	// retry by hand keeps their order; else 0.
	Place uint64
	// Attempt counts the tries of this round, from 1.
	Attempt int
	// Tries is how many of them were made before it was moved to this lane, and From
	// the sequences that it has had, the last one first: messages that may still be
	// there when this one comes. Both are empty if it was not moved.
	Tries int
	From  []uint64
	// Sequence is its message's on stream DELIVERIES.
	Sequence uint64
	// Queued is when it was put there, or into the lane that it was moved from.
	Queued time.Time
}

// Key identifies a delivery among all: "<event>.<subscription>.<round>".
func (d *Delivery) Key() string {
	return d.Event + "." + d.Subscription + "." + strconv.Itoa(d.Round)
}

// A Priority is chosen by the subscriber. Higher goes first; equal goes in
// order of arrival.
type Priority uint8

const (
	Normal Priority = iota
	High
	Low
)

// Priorities lists all, highest first.
func Priorities() []Priority { return []Priority{High, Normal, Low} }

// String returns the priority's token in subjects and consumer names.
func (p Priority) String() string {
	switch p {
	case High:
		return "high"
	case Low:
		return "low"
	}
	return "normal"
}

// An Outcome is what an attempt taught about its delivery.
type Outcome string

const (
	Delivered Outcome = "delivered" // the destination has it
	Retry     Outcome = "retry"     // not now; again later
	Refused   Outcome = "refused"   // the destination will not have it
	Exhausted Outcome = "exhausted" // not now, and no try is left
)

// An Attempt is one try at a delivery: a fact.
type Attempt struct {
	Event        string        `json:"event"`
	Type         string        `json:"type,omitempty"`
	Subscription string        `json:"subscription"`
	Round        int           `json:"round"`
	Number       int           `json:"number"` // within the round, from 1
	Outcome      Outcome       `json:"outcome"`
	Destination  string        `json:"destination,omitempty"` // for people, without credentials
	Status       int           `json:"status,omitempty"`      // HTTP status; 0 without an answer
	ErrorClass   string        `json:"errorClass,omitempty"`  // timeout, connect, dns, tls, blocked, closed, auth, transform, other
	Error        string        `json:"error,omitempty"`
	Response     string        `json:"response,omitempty"` // the first 4 KiB of the answer's body
	At           time.Time     `json:"at"`                 // when it began
	Latency      time.Duration `json:"latency"`            // nanoseconds in JSON
	NextAt       time.Time     `json:"nextAt,omitzero"`    // when it is tried again
	Queued       time.Time     `json:"queued,omitzero"`    // when its delivery was queued
}

// A DeadLetter is a delivery that the platform gave up on, kept for retry by hand.
type DeadLetter struct {
	ID           string    `json:"id,omitempty"` // its sequence on stream DEADLETTERS, in decimal
	Event        string    `json:"event"`
	Type         string    `json:"type,omitempty"`
	Source       string    `json:"source,omitempty"`
	Context      string    `json:"context,omitempty"`
	Tenant       string    `json:"tenant,omitempty"`
	Subscription string    `json:"subscription"`
	Policy       string    `json:"policy,omitempty"`
	Priority     Priority  `json:"priority,omitempty"`
	Round        int       `json:"round"`
	Attempts     int       `json:"attempts"`
	Reason       string    `json:"reason"` // refused, exhausted, gone, max-deliveries, missing, no-subscription, transform
	Detail       string    `json:"detail,omitempty"`
	Status       int       `json:"status,omitempty"` // of the last attempt
	Place        uint64    `json:"place,omitempty"`  // as in Delivery
	At           time.Time `json:"at"`
}

// A Rejection is a publish that was refused, kept so that a person can see it.
type Rejection struct {
	ID         string      `json:"id,omitempty"` // its sequence on stream REJECTIONS, in decimal
	Source     string      `json:"source"`
	Context    string      `json:"context,omitempty"`
	Type       string      `json:"type,omitempty"`
	Status     int         `json:"status"` // HTTP status of the answer
	Reason     string      `json:"reason"` // in one word: signature, schema, too-large, …
	Detail     string      `json:"detail,omitempty"`
	RemoteAddr string      `json:"remoteAddress,omitempty"`
	Violations []Violation `json:"violations,omitempty"`
	Receipt    []Step      `json:"receipt,omitempty"`
	At         time.Time   `json:"at"`
}
