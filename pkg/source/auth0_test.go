package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

const auth0Secret = "Bearer s3cret"

func fromAuth0(body string, headers ...string) *Request {
	return request(body, append(headers, "Authorization: "+auth0Secret)...)
}

func auth0Data(id, code string) string {
	return `{"date":"2026-02-28T23:59:59.123Z", "type":"` + code + `","n":9007199254740993,"client_name":"Ä",` +
		`"hostname":"tenant.eu.auth0.com","user_id":"auth0|1","log_id":"` + id + `"}`
}

func auth0Record(id, code string) string {
	return `{"log_id":"` + id + `","data": ` + auth0Data(id, code) + ` }`
}

func auth0Want(id, code string) Incoming {
	return Incoming{Key: id, Event: event.Event{
		Type: "com.auth0.log." + code, ExternalID: id, ExternalSource: "https://tenant.eu.auth0.com/", Subject: "auth0|1",
		Time: time.Date(2026, 2, 28, 23, 59, 59, 123e6, time.UTC), DataContentType: "application/json", Data: []byte(auth0Data(id, code)),
	}}
}

// The form is told by the body alone: Auth0 lets people set any content type.
func TestAuth0Forms(t *testing.T) {
	t.Parallel()
	a, b := auth0Record("1", "s"), auth0Record("2", "fp")
	pretty := strings.ReplaceAll(a, ",", ",\n\t") // another body, so other data
	two := []Incoming{auth0Want("1", "s"), auth0Want("2", "fp")}
	tests := []struct {
		name string
		body string
		want []Incoming
	}{
		{"array", "[" + a + "," + b + "]", two},
		{"array with blanks", " [ \n" + a + " ,\t" + b + "\r\n] ", two},
		{"empty array", "[]", nil},
		{"lines", a + "\n" + b, two},
		{"lines, ended", a + "\r\n" + b + "\r\n", two},
		{"lines, an empty one between", a + "\n\n" + b, two},
		{"objects without anything between", a + b, two},
		{"one object", a, two[:1]},
		{"one object over several lines", pretty, []Incoming{func() Incoming {
			in := auth0Want("1", "s")
			in.Event.Data = []byte(strings.ReplaceAll(auth0Data("1", "s"), ",", ",\n\t"))
			return in
		}()}},
		{"logs", `{"logs":[` + a + "," + b + `]}`, two},
		{"logs of none", `{"logs":[]}`, nil},
	}
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_AUTH0}, auth0Secret)
	for _, tt := range tests {
		for _, contentType := range []string{"application/json", "application/x-ndjson", "text/plain", ""} {
			t.Run(tt.name+" as "+contentType, func(t *testing.T) {
				t.Parallel()
				diff(t, receive(t, s, fromAuth0(tt.body, "Content-Type: "+contentType)), tt.want)
			})
		}
	}
}

func TestAuth0Records(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, record string
		want         event.Event
	}{
		{"nothing but the code", `{"data":{"type":"s"}}`, event.Event{Type: "com.auth0.log.s", Data: []byte(`{"type":"s"}`)}},
		{"the log ID in the data", `{"data":{"type":"s","log_id":"7"}}`,
			event.Event{Type: "com.auth0.log.s", ExternalID: "7", Data: []byte(`{"type":"s","log_id":"7"}`)}},
		{"the record's log ID first", `{"data":{"type":"s","log_id":"7"},"log_id":"8"}`,
			event.Event{Type: "com.auth0.log.s", ExternalID: "8", Data: []byte(`{"type":"s","log_id":"7"}`)}},
		{"an odd code", `{"data":{"type":"a b.c/é"}}`, event.Event{Type: "com.auth0.log.a_b_c__", Data: []byte(`{"type":"a b.c/é"}`)}},
		{"an unknown code", `{"data":{"type":"brand_new"}}`, event.Event{Type: "com.auth0.log.brand_new", Data: []byte(`{"type":"brand_new"}`)}},
		{"fields that are not what they were", `{"data":{"type":"s","date":1,"hostname":"a/b","user_id":null}}`,
			event.Event{Type: "com.auth0.log.s", Data: []byte(`{"type":"s","date":1,"hostname":"a/b","user_id":null}`)}},
	}
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_AUTH0}, auth0Secret)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.want.DataContentType = "application/json"
			diff(t, receive(t, s, fromAuth0(tt.record)), []Incoming{{Event: tt.want, Key: tt.want.ExternalID}})
		})
	}
}

func TestAuth0Wanted(t *testing.T) {
	t.Parallel()
	sent := []string{"s", "fp", "slo", "pla", "brand_new"} // the last is unknown to us
	tests := []struct {
		name     string
		settings *posthornv1.Auth0Settings
		want     []string
	}{
		{"no settings: all", nil, sent},
		{"empty settings: all", &posthornv1.Auth0Settings{}, sent},
		{"codes alone, to the letter", &posthornv1.Auth0Settings{Codes: []string{"s", "fp"}}, []string{"s", "fp"}},
		{"a code that is unknown but listed", &posthornv1.Auth0Settings{Codes: []string{"brand_new"}}, []string{"brand_new"}},
		{"a category, and what may belong to it", &posthornv1.Auth0Settings{Categories: []string{"login_fail"}}, []string{"fp", "brand_new"}},
		{"other", &posthornv1.Auth0Settings{Categories: []string{"other"}}, []string{"pla", "brand_new"}},
		{"both", &posthornv1.Auth0Settings{Codes: []string{"s"}, Categories: []string{"logout"}}, []string{"s", "slo", "brand_new"}},
	}
	var body strings.Builder
	for i, code := range sent {
		body.WriteString(auth0Record(fmt.Sprint(i), code) + "\n")
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := compile(t, &posthornv1.Source{Kind: posthornv1.Source_AUTH0, Auth0: tt.settings}, auth0Secret).Receive(fromAuth0(body.String()))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, in := range b.Events {
				got = append(got, strings.TrimPrefix(in.Event.Type, "com.auth0.log."))
			}
			if !slices.Equal(got, tt.want) || b.Dropped != len(sent)-len(tt.want) {
				t.Errorf("took %q and dropped %d, want %q and %d", got, b.Dropped, tt.want, len(sent)-len(tt.want))
			}
		})
	}
}

func TestAuth0CodesBelongToOneCategory(t *testing.T) {
	t.Parallel()
	of := map[string]string{}
	for _, c := range auth0Categories {
		for code := range strings.FieldsSeq(c.codes) {
			if of[code] != "" {
				t.Errorf("code %s is in %s and in %s", code, of[code], c.name)
			}
			of[code] = c.name
		}
	}
	for code, want := range map[string]string{"fp": "login_fail", "s": "login", "ssa": "silent_auth", "sertft": "token_exchange",
		"limit_wc": "notifications", "pwd_leak": "other", "mgmt_api_read": "management"} {
		if of[code] != want {
			t.Errorf("code %s is in %q, want %q", code, of[code], want)
		}
	}
}

func TestAuth0Refuses(t *testing.T) {
	t.Parallel()
	good := auth0Record("1", "s")
	tests := []struct {
		name, body, want string
	}{
		{"an empty body", "", "the body is empty"},
		{"blanks", " \n", "the body is empty"},
		{"bad JSON", `{"log_id":`, "JSON document 1"},
		{"a bad line", good + "\n{]", "JSON document 2"},
		{"a comma between lines", good + ",\n" + good, "JSON document 2"},
		{"not UTF-8", "{\"data\":{\"type\":\"\xff\"}}", "not valid UTF-8"},
		{"a record that is no object", "[" + good + ",1]", "[1]: a log record is a JSON object"},
		{"a line that is no object", good + "\n\"text\"", "[1]: a log record is a JSON object"},
		{"a list in the list", "[[" + good + "]]", "[0]: a log record is a JSON object"},
		{"a record without data", "[" + good + "," + good + `,{"log_id":"7"}]`, "[2].data"},
		{"data that are no object", `{"data":"s"}`, "[0].data"},
		{"a record without code", good + "\n" + `{"data":{"log_id":"7"}}`, "[1].data.type"},
		{"a code that is no text", `{"data":{"type":7}}`, "[0].data.type"},
		{"an empty code", `{"data":{"type":""}}`, "[0].data.type"},
		{"a code that is too long", `{"data":{"type":"` + strings.Repeat("s", 1020) + `"}}`, "[0].data.type"},
	}
	s := compile(t, &posthornv1.Source{Kind: posthornv1.Source_AUTH0}, auth0Secret)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b, err := s.Receive(fromAuth0(tt.body))
			refused(t, b, err, errs.Invalid, "malformed", tt.want)
		})
	}
}

func TestAuth0Authorization(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		secrets []string
		header  string
		want    string // "" if it is accepted
	}{
		{"the secret", []string{auth0Secret}, auth0Secret, ""},
		{"the second secret", []string{"new", auth0Secret}, auth0Secret, ""},
		{"none", []string{auth0Secret}, "", "no Authorization header"},
		{"another", []string{auth0Secret}, "Bearer other", "not one of the secrets"},
		{"another case", []string{auth0Secret}, "bearer s3cret", "not one of the secrets"},
		{"without the scheme", []string{auth0Secret}, "s3cret", "not one of the secrets"},
		{"one more byte", []string{auth0Secret}, auth0Secret + "x", "not one of the secrets"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := request(auth0Record("1", "s"))
			if tt.header != "" {
				r.Header.Set("Authorization", tt.header)
			}
			b, err := compile(t, &posthornv1.Source{Kind: posthornv1.Source_AUTH0}, tt.secrets...).Receive(r)
			if tt.want != "" {
				refused(t, b, err, errs.Unauthenticated, "signature", tt.want)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// The decoder of encoding/json is the oracle for bodies that it reads whole.
func FuzzAuth0Records(f *testing.F) {
	good := auth0Record("1", "s")
	for _, s := range []string{"", "[]", good, good + "\n" + good, "[" + good + "]", `{"logs":[` + good + `]}`, `{"logs":{}}`, "{}{}",
		`{"a":"\\"}` + "\n{}", `{"a":"}{"}`, `[{"a":[{}]},1,"x",null]`,
		`{"a":"\"}{\\\""}` + "\n{}", `[{"a\"]":"\\"},{}]`, "{", "]", `"`, `{"a`, "{}\n,", "\"\\", "[1,]", "{\"\xff\":1}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got [][]byte
		var failed error
		for record, err := range auth0Records(body) {
			if failed = err; err == nil {
				got = append(got, record)
				// Whatever it is, it must not panic.
				_, _, _ = auth0Event(record, 0)
			}
		}
		want, ok := decodeRecords(body)
		if !ok {
			return
		}
		if failed != nil {
			t.Fatalf("%q is refused (%v), want %d records", body, failed, len(want))
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("records of %q are %q, want %q", body, got, want)
		}
	})
}

// decodeRecords does what auth0Records does, with encoding/json. It reports
// false for what it can't judge: bodies that are bad, and values other than
// objects and arrays, whose end the decoder sees elsewhere.
func decodeRecords(body []byte) ([][]byte, bool) {
	var records [][]byte
	dec := json.NewDecoder(bytes.NewReader(body))
	for {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return records, err.Error() == "EOF" && bytes.Equal(body, bytes.ToValidUTF8(body, nil))
		}
		var list []json.RawMessage
		switch raw[0] {
		case '[':
			if json.Unmarshal(raw, &list) != nil {
				return nil, false
			}
		case '{':
			var object map[string]json.RawMessage
			if json.Unmarshal(raw, &object) != nil {
				return nil, false
			}
			if logs := object["logs"]; len(logs) == 0 || logs[0] != '[' || json.Unmarshal(logs, &list) != nil {
				list = []json.RawMessage{raw}
			}
		default:
			return nil, false
		}
		for _, r := range list {
			records = append(records, r)
		}
	}
}
