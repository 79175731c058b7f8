package client

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/event"
)

// An Error is the platform's no: an answer that is not 2xx, or the refusal of
// one event of a batch. Answers are problem details of RFC 9457.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Title says in few words what kind of error it is, Detail what happened.
	Title  string
	Detail string
	// Violations name the fields that are wrong.
	Violations []event.Violation
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(e.Status))
	if e.Title != "" {
		b.WriteString(" " + e.Title)
	}
	if e.Detail != "" && e.Detail != e.Title {
		b.WriteString(": " + e.Detail)
	}
	for i, v := range e.Violations {
		// A single violation is often the detail itself.
		if strings.Contains(e.Detail, v.Description) && strings.Contains(e.Detail, v.Field) {
			continue
		}
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep + v.String())
	}
	return b.String()
}

// IsNotFound reports whether err says that there is no such thing.
func IsNotFound(err error) bool { return hasStatus(err, http.StatusNotFound) }

// hasStatus reports whether err is the platform's, with one of the statuses.
func hasStatus(err error, statuses ...int) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	return slices.Contains(statuses, e.Status)
}

// problem makes an Error of an answer. What answers may be a proxy, which
// speaks HTML: then the status has to do.
func problem(res *http.Response, body []byte) *Error {
	e := &Error{Status: res.StatusCode, Title: http.StatusText(res.StatusCode)}
	if !strings.Contains(res.Header.Get("Content-Type"), "json") {
		return e
	}
	var p struct {
		Title      string            `json:"title"`
		Detail     string            `json:"detail"`
		Violations []event.Violation `json:"violations"`
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return e
	}
	if p.Title != "" {
		e.Title = printable(p.Title)
	}
	e.Detail = printable(p.Detail)
	for _, v := range p.Violations {
		e.Violations = append(e.Violations, event.Violation{Field: printable(v.Field), Description: printable(v.Description)})
	}
	return e
}

// printable drops control characters: an error ends up on terminals.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || (r < ' ' && r != '\n' && r != '\t') || r == 0x7f {
			return -1
		}
		return r
	}, s)
}

// refusalStatus maps the gRPC codes (google.rpc.Code) that a batch answers with
// for single events to the HTTP statuses that single publishes answer with.
func refusalStatus(code int) int {
	switch code {
	case 3: // INVALID_ARGUMENT
		return http.StatusBadRequest
	case 11: // OUT_OF_RANGE: over a size limit
		return http.StatusRequestEntityTooLarge
	case 5: // NOT_FOUND
		return http.StatusNotFound
	case 6, 10: // ALREADY_EXISTS, ABORTED
		return http.StatusConflict
	case 7: // PERMISSION_DENIED
		return http.StatusForbidden
	case 8: // RESOURCE_EXHAUSTED
		return http.StatusTooManyRequests
	case 9: // FAILED_PRECONDITION
		return http.StatusPreconditionFailed
	case 14: // UNAVAILABLE
		return http.StatusServiceUnavailable
	case 16: // UNAUTHENTICATED
		return http.StatusUnauthorized
	}
	return http.StatusInternalServerError
}
