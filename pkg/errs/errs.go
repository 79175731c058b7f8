package errs

import (
	"errors"
	"fmt"

	"github.com/posthornhq/posthorn/pkg/event"
)

// A Kind is a class of failure that some caller handles differently from the
// others. Kinds are part of the RPC contract: append, never renumber.
type Kind uint8

const (
	Internal        Kind = iota // the zero value: our fault, details withheld
	Invalid                     // the request can never succeed
	Denied                      // the caller may not do this
	Unauthenticated             // the caller did not prove who it is
	NotFound                    // no such thing, or none the caller may see
	Conflict                    // the name is taken, or the thing is in use
	Stale                       // the thing changed since it was read
	TooLarge                    // over a size limit
	Throttled                   // over a limit; retry later
	Full                        // no room left; retry when some has drained
	Unavailable                 // a dependency is down; retry later
)

// String returns the kind in one word, as logs and metrics have it.
func (k Kind) String() string {
	names := [...]string{
		"internal", "invalid", "denied", "unauthenticated", "not-found", "conflict",
		"stale", "too-large", "throttled", "full", "unavailable",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "internal"
}

// An Error carries a Kind and a message that is safe to show to a client.
type Error struct {
	Kind    Kind
	Message string
	// Reason is the cause in one word where the kind alone is too coarse:
	// "signature", "schema". It becomes the rejection's reason and a metric label.
	Reason string
	// Violations name the fields that are wrong.
	Violations []event.Violation
	cause      error // for operators; never sent to a client
}

// New returns an Error of kind with a message made as by [fmt.Sprintf].
func New(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Wrap is New with a cause, which clients never see.
func Wrap(cause error, kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...), cause: cause}
}

// Field returns an Invalid error about one field.
func Field(field, format string, args ...any) *Error {
	msg := fmt.Sprintf(format, args...)
	return &Error{Kind: Invalid, Message: field + ": " + msg, Violations: []event.Violation{{Field: field, Description: msg}}}
}

// Because sets the reason and returns e.
func (e *Error) Because(reason string) *Error {
	e.Reason = reason
	return e
}

// With sets the violations and returns e.
func (e *Error) With(v ...event.Violation) *Error {
	e.Violations = v
	return e
}

func (e *Error) Error() string {
	if e.cause != nil {
		return e.Message + ": " + e.cause.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the Kind of the outermost [Error] in err's chain, or Internal
// if there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// ReasonOf returns the reason of the outermost [Error] in err's chain, or else
// its kind in one word.
func ReasonOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Reason != "" {
		return e.Reason
	}
	return KindOf(err).String()
}

// MessageOf returns what a client may be told of err.
func MessageOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Kind != Internal {
		return e.Message
	}
	return "internal error; the log of the platform has the details"
}

// ViolationsOf returns the fields that err is about.
func ViolationsOf(err error) []event.Violation {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Violations
	}
	return nil
}
