package api_test

import (
	"net/http"
	"strings"
	"testing"
)

func TestLanesAreListedByName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	got := strings.ReplaceAll(r.do("GET", "/api/v1/lanes", "").is(http.StatusOK).body, " ", "")
	for _, want := range []string{
		`{"items":[{"subscription":"a"`, `"closing":true`, `"subscription":"b","reasons":["failing","slow"]`,
		`"failures":5,"error":"refused","until":"1970-01-01T00:00:02Z","probes":2,"queued":"3"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("answered %s, want %s in it", got, want)
		}
	}
}
