package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// A subscriber gets what its program makes of the data, signed as it is sent; a
// program that fails sends nothing.
func TestASubscriptionsProgramMakesWhatIsSent(t *testing.T) {
	t.Parallel()
	p := serve(t)
	s, plain := newSink(t, nil), newSink(t, nil)
	p.must("PUT", "/api/v1/subscriptions/erp", fmt.Sprintf(
		`{"types":["order.*"],"secrets":["hush-hush"],"transform":"{order: .id, total: (.lines | map(.price * .n) | add)}",`+
			`"destination":{"webhook":{"url":%q}}}`, s.URL))
	p.subscribe("all", "order.*", "OUTGOING", plain.URL, "")
	if status, answer := p.api("PUT", "/api/v1/subscriptions/broken", `{"types":["#"],"transform":"{a: ","destination":{"webhook":{"url":"https://e.example"}}}`); status != http.StatusBadRequest || !strings.Contains(answer, `"transform"`) {
		t.Errorf("a program that does not parse is answered %d %s, want 400 about transform", status, answer)
	}
	const data = `{"id":9007199254740993,"lines":[{"price":2,"n":3},{"price":4,"n":1}],"b":1.10}`
	good := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":`+data+`}`))
	p.untilStatus(good, "delivered")
	const want = `{"order":9007199254740993,"total":10}`
	if got := s.all(); len(got) != 1 || string(got[0].body) != want || got[0].header.Get("Content-Type") != "application/json" {
		t.Fatalf("sent %d requests, %+v; want one of %s", len(got), got, want)
	}
	if got := s.all()[0].header.Get("HMAC-SIG"); got != "SHA256 "+sign("hush-hush", want) {
		t.Errorf("signed as %q, want over what was sent", got)
	}
	if got := plain.all(); len(got) != 1 || string(got[0].body) != data {
		t.Errorf("without a program %+v was sent, want what was published", got)
	}

	bad := id(t, p.must("POST", "/api/v1/events", `{"type":"order.created","data":{"lines":"none"}}`))
	p.untilStatus(bad, "failed")
	if letters := p.must("GET", "/api/v1/deadletters?subscription=erp", ""); !strings.Contains(letters, bad) || !strings.Contains(letters, "transform: cannot iterate over") || !strings.Contains(letters, `"reason":"transform"`) {
		t.Errorf("dead letters are %s, want one of %s that says why", letters, bad)
	}
	if n := s.count(); n != 1 {
		t.Errorf("%d requests, want none for what could not be made", n)
	}
	// With a program that can, it is sent by hand.
	p.must("PUT", "/api/v1/subscriptions/erp", fmt.Sprintf(`{"types":["order.*"],"transform":".lines","destination":{"webhook":{"url":%q}}}`, s.URL))
	var page struct {
		Items []struct{ ID string } `json:"items"`
	}
	if err := json.Unmarshal([]byte(p.must("GET", "/api/v1/deadletters?subscription=erp", "")), &page); err != nil || len(page.Items) != 1 {
		t.Fatalf("dead letters are %+v with error %v, want one", page, err)
	}
	p.must("POST", "/api/v1/deadletters:retry", fmt.Sprintf(`{"ids":[%q]}`, page.Items[0].ID))
	p.untilStatus(bad, "delivered")
	if got := s.all(); string(got[len(got)-1].body) != `"none"` {
		t.Errorf("sent %s by hand, want what the new program makes", got[len(got)-1].body)
	}

	if answer := p.must("POST", "/api/v1/subscriptions/erp:test", `{"data":{"lines":[1]}}`); !strings.Contains(answer, `"body":"[1]"`) || !strings.Contains(answer, `"Webhook-Signature"`) {
		t.Errorf("a test event shows %s, want the request that was sent", answer)
	}

	// What a program makes can be seen before it is saved.
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	try := func(program string) (string, error) {
		cmd := exec.CommandContext(t.Context(), bin, "subscription", "transform", "--program", program, "--server", p.http, "--key", p.key)
		cmd.Stdin = strings.NewReader(data)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := try("{order: .id}"); err != nil || out != `{"order":9007199254740993}`+"\n" {
		t.Errorf("subscription transform: %v\n%s", err, out)
	}
	if out, err := try(".lines[]"); err == nil || !strings.Contains(out, "more than one value") {
		t.Errorf("subscription transform of a program that makes two values: %v\n%s", err, out)
	}
}
