package event_test

import (
	"testing"

	"github.com/posthornhq/posthorn/pkg/event"
)

func TestIsJSON(t *testing.T) {
	t.Parallel()
	for contentType, want := range map[string]bool{
		"": true, "application/json": true, "Application/JSON": true, "application/json; charset=utf-8": true, " text/json ;x": true,
		"application/cloudevents+json": true, "application/vnd.api+JSON; a=b": true,
		"+json": false, "application/xml": false, "text/plain": false, "application/jsonl": false, "application/x-ndjson": false, "json": false,
	} {
		if got := event.IsJSON(contentType); got != want {
			t.Errorf("%q: %t, want %t", contentType, got, want)
		}
	}
}
