package broker

import (
	"encoding/json"
	"strings"

	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// versionWord is the last word of the type of a version update (C14).
const versionWord = "_version"

// VersionUpdate is the event that tells all subscribers of a schema of a new
// version. Its subject is the type whose schema it is; its own type has
// "_version" in place of that type's last word, so that those who take a whole
// namespace get it too.
func VersionUpdate(s *posthornv1.Schema, changes []string) (ev *posthornv1.Event, key string) {
	typ := s.GetType()
	at := strings.LastIndexByte(typ, '/')
	if at < 0 {
		at = strings.LastIndexByte(typ, '.')
	}
	data, err := json.Marshal(struct {
		Type    string   `json:"type"`
		Version int32    `json:"version"`
		Kind    string   `json:"kind"`
		Changes []string `json:"changes"`
	}{typ, s.GetVersion(), s.GetKind().String(), append([]string{}, changes...)})
	if err != nil {
		panic(err) // strings and a number always have a form in JSON
	}
	ev = &posthornv1.Event{
		Type: typ[:at+1] + versionWord, Source: ownName, Subject: typ, Direction: posthornv1.Event_OUTGOING, Data: data,
	}
	// A version is stored once, by whichever process; it is told once, too.
	return ev, "schema:" + typ + ":" + string(data)
}

// isVersionUpdate looks at producers' events only: what a publisher sends to a
// source is for that source's context.
func isVersionUpdate(ev *event.Event) bool {
	return ev.Direction == event.Outgoing && hasVersionWord(ev.Type)
}

// hasVersionWord reports whether the last word of a type is [versionWord].
func hasVersionWord(typ string) bool {
	rest, ok := strings.CutSuffix(typ, versionWord)
	return ok && (rest == "" || rest[len(rest)-1] == '/' || rest[len(rest)-1] == '.')
}
