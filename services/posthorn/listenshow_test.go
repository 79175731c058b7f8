package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/client"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func TestWhatListenShows(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		output    listenOutput
		forwarded bool
		out, err  string
	}{
		{"compact", listenCompact, true, "12:00:00  order.created  ev_1  200  0s\n12:00:00  order.created  ev_2  500  0s  status 500\n", ""},
		{"quiet and forwarded", listenQuiet, true, "", "12:00:00  order.created  ev_2  500  0s  status 500\ntries: 2, failed: 1\n"},
		{"quiet and only taken", listenQuiet, false, "ev_1\n", "tries: 2, failed: 1\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out, err strings.Builder
			s := &listenScreen{out: &out, err: &err, format: tt.output}
			for i, id := range []string{"ev_1", "ev_2"} {
				d := &shownDelivery{
					at: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), forwarded: tt.forwarded, status: 200,
					delivery: &client.Delivery{Stored: &posthornv1.Event{}, Event: client.Event{Type: "order.created", DeliveryID: id}},
				}
				if i == 1 {
					d.status, d.err = 500, errors.New("status 500")
				}
				if sErr := s.show(d); sErr != nil {
					t.Fatal(sErr)
				}
			}
			s.sum()
			if got := out.String(); got != tt.out {
				t.Errorf("printed %q, want %q", got, tt.out)
			}
			if got := err.String(); !strings.HasSuffix(got, tt.err) || tt.err == "" && got != "" {
				t.Errorf("to standard error %q, want %q", got, tt.err)
			}
		})
	}
}
