package client_test

import (
	"testing"

	"github.com/posthornhq/posthorn/pkg/client"
	"github.com/posthornhq/posthorn/pkg/event"
)

func TestAnErrorNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	err := &client.Error{Status: 400, Title: "Bad Request", Detail: "no: /total is a text", Violations: []event.Violation{
		{Field: "/total", Description: "is a text"}, {Description: "missing property id"}, {Field: "/lines/0", Description: "is empty"},
	}}
	if got, want := err.Error(), "400 Bad Request: no: /total is a text; missing property id; /lines/0: is empty"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
