package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

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

// What the generated code and protojson say of a request that they cannot read: where
// in the body, or which parameter.
var (
	position     = regexp.MustCompile(`\(line (\d+):(\d+)\):\s*(.*)`)
	unknownField = regexp.MustCompile(`^unknown field "`)
	wrongValue   = regexp.MustCompile(`^invalid value for \w+ (?:field \w+|key): (.*)`)
	wrongToken   = regexp.MustCompile(`^unexpected token (.*)`)
	wrongQuery   = regexp.MustCompile(`parsing field "([^"]+)": (.*)`)
)

const tooLargeText = "http: request body too large"

// readable turns an error of the generated code, which has a text only, into one
// that names the field by its path in the body.
func readable(err error, body []byte) error {
	s, ok := status.FromError(err)
	if !ok || s.Code() != codes.InvalidArgument || len(s.Details()) > 0 {
		return err
	}
	text := s.Message()
	if strings.Contains(text, tooLargeText) {
		return errs.New(errs.TooLarge, "the body is larger than a resource may be")
	}
	if m := wrongQuery.FindStringSubmatch(text); m != nil {
		return errs.Field(m[1], "%s", m[2])
	}
	m := position.FindStringSubmatch(text)
	if m == nil {
		return errs.New(errs.Invalid, "%s", text)
	}
	path, what := pathAt(body, offsetOf(body, m[1], m[2])), m[3]
	switch {
	case path == "":
		return errs.New(errs.Invalid, "%s", what)
	case unknownField.MatchString(what):
		return errs.Field(path, "there is no such field")
	}
	for _, pattern := range []*regexp.Regexp{wrongValue, wrongToken} {
		if value := pattern.FindStringSubmatch(what); value != nil {
			return errs.Field(path, "%s is not a value that it may have", value[1])
		}
	}
	return errs.Field(path, "%s", what)
}

// offsetOf returns where in text a line and column are, which count from 1, columns in
// characters.
func offsetOf(text []byte, line, column string) int {
	l, errLine := strconv.Atoi(line)
	c, errColumn := strconv.Atoi(column)
	if errLine != nil || errColumn != nil {
		return len(text) // it was a regular expression that found them
	}
	at := 0
	for ; l > 1; l-- {
		i := bytes.IndexByte(text[at:], '\n')
		if i < 0 {
			return len(text)
		}
		at += i + 1
	}
	for ; c > 1 && at < len(text); c-- {
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	return at
}

// pathAt returns the path of what is at an offset of a JSON document, such as
// "delivery.backoff.strategy" or "contexts[0]", or "" if there is nothing that has one.
func pathAt(doc []byte, offset int) string {
	type level struct {
		array bool
		n     int    // elements before
		name  string // of the member
		named bool   // the name has been read, and the value has not
	}
	var stack []level
	path := func() string {
		p := ""
		for _, l := range stack {
			switch {
			case l.array:
				p += fmt.Sprintf("[%d]", l.n)
			case l.name != "":
				p = join(p, l.name)
			}
		}
		return p
	}
	done := func() { // with a value
		if n := len(stack); n > 0 {
			stack[n-1].n++
			stack[n-1].named = false
		}
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	for {
		token, err := dec.Token()
		if err != nil {
			return ""
		}
		found := int(dec.InputOffset()) > offset
		delim, _ := token.(json.Delim)
		if delim == '}' || delim == ']' {
			stack = stack[:len(stack)-1]
		} else if n := len(stack); n > 0 && !stack[n-1].array && !stack[n-1].named {
			stack[n-1].name, _ = token.(string)
			stack[n-1].named = true
			if found {
				return path()
			}
			continue
		}
		if found {
			return path()
		}
		if delim == '{' || delim == '[' {
			stack = append(stack, level{array: delim == '['})
		} else {
			done()
		}
	}
}
