package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/wire"
)

// A problem is an error as RFC 9457 has it.
type problem struct {
	// Type is "urn:posthorn:problem:" and the reason in one word.
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Instance is the path of the request.
	Instance   string            `json:"instance,omitempty"`
	Violations []event.Violation `json:"violations,omitempty"`
}

// retryAfter is what the platform asks for, in seconds, when it has no room or
// misses something: such states are short, or last until a person acts.
const retryAfter = "1"

// statusOf returns the HTTP status of a kind.
func statusOf(k errs.Kind) int {
	switch k {
	case errs.Invalid:
		return http.StatusBadRequest
	case errs.Denied:
		return http.StatusForbidden
	case errs.Unauthenticated:
		return http.StatusUnauthorized
	case errs.NotFound:
		return http.StatusNotFound
	case errs.Conflict:
		return http.StatusConflict
	case errs.Stale:
		return http.StatusPreconditionFailed
	case errs.TooLarge:
		return http.StatusRequestEntityTooLarge
	case errs.Throttled:
		return http.StatusTooManyRequests
	case errs.Full, errs.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// writeError answers with the problem that err is: an [errs.Error], or a gRPC status.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	if _, ours := errors.AsType[*errs.Error](err); !ours {
		if status.Code(err) == codes.Unimplemented {
			writeProblem(w, r, problem{Status: http.StatusNotImplemented, Detail: status.Convert(err).Message()}, "unimplemented")
			return
		}
		err = wire.Error(err)
	}
	p := problem{Status: statusOf(errs.KindOf(err)), Detail: errs.MessageOf(err), Violations: errs.ViolationsOf(err)}
	if errors.Is(err, error(errTooSlow)) {
		p.Status = http.StatusRequestTimeout
		w.Header().Set("Connection", "close") // the rest of it may still be on its way
	}
	writeProblem(w, r, p, errs.ReasonOf(err))
}

func writeProblem(w http.ResponseWriter, r *http.Request, p problem, reason string) {
	p.Type = "urn:posthorn:problem:" + reason
	p.Title = http.StatusText(p.Status)
	p.Instance = r.URL.Path
	switch p.Status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="posthorn"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter)
	}
	body, err := json.Marshal(p)
	if err != nil {
		body = []byte("{}") // strings and a number always encode
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // whoever is gone does not miss it
}

// What the generated code and protojson say of a request that they cannot read,
// and the field in it.
var (
	unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)
	wrongValue   = regexp.MustCompile(`invalid value for \w+ field (\w+): (.*)`)
	wrongQuery   = regexp.MustCompile(`parsing field "([^"]+)": (.*)`)
)

const tooLargeText = "http: request body too large"

// readable turns an error of the generated code, which has a text only, into one
// that names the field.
func readable(err error) error {
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.InvalidArgument || len(s.Details()) > 0 {
		return err
	}
	text := s.Message()
	if strings.Contains(text, tooLargeText) {
		return errs.New(errs.TooLarge, "the body is larger than a resource may be")
	}
	if m := unknownField.FindStringSubmatch(text); m != nil {
		return errs.Field(m[1], "there is no such field")
	}
	if m := wrongValue.FindStringSubmatch(text); m != nil {
		return errs.Field(m[1], "%s is not a value that it may have", m[2])
	}
	if m := wrongQuery.FindStringSubmatch(text); m != nil {
		return errs.Field(m[1], "%s", m[2])
	}
	return errs.New(errs.Invalid, "%s", text)
}
