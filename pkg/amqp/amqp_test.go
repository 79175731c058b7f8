package amqp

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
)

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		url, username string
		want          Endpoint
		shown         string
	}{
		{"amqp://u@rabbit.example", "", Endpoint{Address: "rabbit.example:5672", Vhost: "/", Username: "u", Password: "hush"}, "amqp://rabbit.example:5672"},
		{"amqps://u@rabbit.example/", "v", Endpoint{TLS: true, Address: "rabbit.example:5671", Vhost: "/", Username: "v", Password: "hush"}, "amqps://rabbit.example:5671"},
		{"amqp://[::1]:99/a%2Fb", "v", Endpoint{Address: "[::1]:99", Vhost: "a/b", Username: "v", Password: "hush"}, "amqp://[::1]:99/a/b"},
	}
	for _, tt := range tests {
		got, err := Parse("f", tt.url, tt.username, "hush")
		if err != nil || got != tt.want || got.String() != tt.shown {
			t.Errorf("%s is %+v (%v), shown as %s; want %+v as %s", tt.url, got, err, got, tt.want, tt.shown)
		}
	}
	for url, field := range map[string]string{
		"": "f.url", "amqp://u:hunter2@h": "f.url", "amqp://u:hunter2@h:x": "f.url", "http://u@h": "f.url", "amqp://u@": "f.url",
		"amqp://u@h?heartbeat=0": "f.url", "amqp://u@h#f": "f.url", "amqp://h": "f.username", "amqp://u%00@h": "f.username", "amqp://u@h/%0a": "f.url",
	} {
		_, err := Parse("f", url, "", "hush")
		if v := errs.ViolationsOf(err); len(v) != 1 || v[0].Field != field || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: error is %v, want one about %s that shows no password", url, err, field)
		}
	}
}

// A broker that accepts and then says nothing must not hold anybody up.
func TestDialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			cancel()
			<-t.Context().Done()
		}
	}()
	_, err = Endpoint{Address: l.Addr().String(), Vhost: "/", Username: "u", Password: "hush"}.Dial(ctx, &net.Dialer{}, Options{})
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "hush") {
		t.Errorf("error is %v, want that it was cancelled", err)
	}
}

// Pauses grow, but for ever they are short enough, and never the same for all.
func TestPauses(t *testing.T) {
	t.Parallel()
	distinct := map[time.Duration]bool{}
	for n := 1; n < 2000; n++ {
		d := Pause(n)
		distinct[d] = true
		if d < 100*time.Millisecond || d > 5*time.Second {
			t.Fatalf("pause %d is %s", n, d)
		}
	}
	if len(distinct) < 1000 {
		t.Errorf("only %d of 1999 pauses are different", len(distinct))
	}
}

func TestComplaintsAreBounded(t *testing.T) {
	t.Parallel()
	var c Complaints
	begun := time.Now()
	for _, step := range []struct {
		after time.Duration
		text  string
		want  bool
	}{
		{0, "a", true}, {time.Second, "a", false}, {2 * time.Second, "b", false}, {6 * time.Second, "b", true},
		{7 * time.Second, "a", false}, {60 * time.Second, "b", false}, {67 * time.Second, "b", true},
	} {
		if got := c.Due(step.text, begun.Add(step.after)); got != step.want {
			t.Errorf("%s after %s: due %v, want %v", step.text, step.after, got, step.want)
		}
	}
	c.Over()
	if !c.Due("b", begun.Add(68*time.Second)) {
		t.Error("what begins anew is not said")
	}
}
