package source

import (
	"strconv"
	"strings"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/pattern"
	"github.com/posthornhq/posthorn/pkg/rawjson"
	"github.com/posthornhq/posthorn/pkg/signature"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// auth0TypePrefix stands before the code of a log event in an event's type.
const auth0TypePrefix = "com.auth0.log."

// auth0 takes the log streams of Auth0 (custom webhook) in any of their content
// formats, told apart by the body alone. Each record is one event.
type auth0 struct {
	secrets [][]byte
	details []string // for the receipt, one a secret
	wanted  auth0Filter
}

func newAuth0(s *posthornv1.Auth0Settings, secrets [][]byte) auth0 {
	return auth0{
		secrets: secrets,
		details: verifyDetails("auth0 authorization", len(secrets)),
		wanted:  newAuth0Filter(s),
	}
}

// auth0Filter says which log events are wanted.
//
// With neither codes nor categories all are. A code in the list is wanted, and
// so is one of a category in the list. A code that we do not know counts as
// "other", and passes as long as there are categories (A2): it may well belong
// to one of them, and what is dropped cannot be had again. A list of codes alone
// is meant to the letter.
type auth0Filter struct {
	known   map[string]bool // whether it is wanted; nil if all are
	unknown bool
}

func newAuth0Filter(s *posthornv1.Auth0Settings) auth0Filter {
	if len(s.GetCodes()) == 0 && len(s.GetCategories()) == 0 {
		return auth0Filter{unknown: true}
	}
	f := auth0Filter{known: make(map[string]bool), unknown: len(s.GetCategories()) > 0}
	for _, c := range auth0Categories {
		for code := range strings.FieldsSeq(c.codes) {
			f.known[code] = false
		}
	}
	for _, name := range s.GetCategories() {
		for _, code := range auth0Codes(name) {
			f.known[code] = true
		}
	}
	for _, code := range s.GetCodes() {
		f.known[code] = true
	}
	return f
}

func (f auth0Filter) wants(code string) bool {
	if wanted, known := f.known[code]; known {
		return wanted
	}
	return f.unknown
}

func (a auth0) verify(r *Request) (string, error) {
	value := r.Header.Get("Authorization")
	if value == "" {
		return "", unverified("the request has no Authorization header; set the log stream's authorization token at Auth0")
	}
	i := signature.MatchToken(a.secrets, value)
	if i < 0 {
		return "", unverified("Authorization is not one of the secrets of this source")
	}
	return a.details[i], nil
}

func (a auth0) parse(r *Request) (Batch, error) {
	var b Batch
	n := 0
	for record, err := range auth0Records(r.Body) {
		if err != nil {
			return Batch{}, malformed("%v", err)
		}
		if n == maxEvents {
			return Batch{}, errTooMany
		}
		in, code, err := auth0Event(record, n)
		if err != nil {
			return Batch{}, err
		}
		n++
		if !a.wanted.wants(code) {
			b.Dropped++
			continue
		}
		b.Events = append(b.Events, in)
	}
	if n == 0 && rawjson.SkipBlank(r.Body, 0) == len(r.Body) {
		return Batch{}, malformed("the body is empty; a log stream sends an array, lines or an object")
	}
	return b, nil
}

// auth0Records yields the records of a body: of an array, of {"logs":[…]}, or
// else each of the objects that follow each other.
func auth0Records(body []byte) func(yield func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		for value, err := range splitValues(body) {
			if err != nil {
				yield(nil, err)
				return
			}
			list := value
			if logs := member(value, "logs"); rawjson.Begins(logs, '[') {
				list = logs
			}
			if !rawjson.Begins(list, '[') {
				if !yield(value, nil) {
					return
				}
				continue
			}
			for _, record := range rawjson.Elements(list) {
				if !yield(record, nil) {
					return
				}
			}
		}
	}
}

// auth0Event makes an event of record n and returns its code. Only data.type is
// required: the others come and go.
func auth0Event(record []byte, n int) (Incoming, string, error) {
	if !rawjson.Begins(record, '{') {
		return Incoming{}, "", auth0Error(n, "", "a log record is a JSON object")
	}
	var logID string
	var data []byte
	for name, value := range rawjson.Members(record) {
		switch string(name) {
		case "log_id":
			logID = cleanString(value)
		case "data":
			data = value
		}
	}
	if !rawjson.Begins(data, '{') {
		return Incoming{}, "", auth0Error(n, ".data", "a log record has an object here")
	}
	ev := event.Event{DataContentType: "application/json", Data: data}
	var code string
	for name, value := range rawjson.Members(data) {
		switch string(name) {
		case "type":
			code = cleanString(value)
		case "log_id":
			ev.ExternalID = cleanString(value)
		case "hostname":
			ev.ExternalSource = httpsSource(cleanString(value))
		case "user_id":
			ev.Subject = cleanString(value)
		case "date":
			if t, err := parseTime(cleanString(value)); err == nil {
				ev.Time = t
			}
		}
	}
	if code == "" {
		return Incoming{}, "", auth0Error(n, ".data.type", "the code of the log event is missing")
	}
	if logID != "" {
		ev.ExternalID = logID
	}
	ev.Type = auth0TypePrefix + word(code)
	if err := pattern.ValidType(ev.Type); err != nil {
		return Incoming{}, "", auth0Error(n, ".data.type", "%v", err)
	}
	return Incoming{Event: ev, Key: ev.ExternalID}, code, nil
}

func auth0Error(n int, path, format string, args ...any) error {
	return malformedField("["+strconv.Itoa(n)+"]"+path, format, args...)
}

// cleanString returns a string that may become an attribute, "" for any other value.
func cleanString(raw []byte) string {
	s, ok := text(raw)
	if !ok || !cleanText(s) {
		return ""
	}
	return s
}

// httpsSource makes the source of events out of the host name of a tenant or shop,
// "" of what is none.
func httpsSource(host string) string {
	for _, c := range []byte(host) {
		if !isAlphanumeric(c) && c != '-' && c != '.' && c != ':' {
			return ""
		}
	}
	if host == "" {
		return ""
	}
	return "https://" + host + "/"
}
