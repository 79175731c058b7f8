package destination

import (
	"testing"

	"github.com/posthornhq/posthorn/pkg/event"
)

func TestOutcome(t *testing.T) {
	t.Parallel()
	only5xx := func(status int) bool { return status/100 == 5 }
	all := func(int) bool { return true }
	none := func(int) bool { return false }

	tests := []struct {
		name      string
		result    Result
		retryable func(int) bool
		want      event.Outcome
	}{
		{"accepted", Result{Verdict: Accepted, Status: 200}, none, event.Delivered},
		{"accepted, whatever the policy retries", Result{Verdict: Accepted, Status: 503}, all, event.Delivered},
		{"accepted by a kind without statuses", Result{Verdict: Accepted}, none, event.Delivered},
		{"the zero value", Result{}, none, event.Retry},
		{"no answer, and no status is retried", Result{Verdict: NoAnswer, ErrorClass: ClassTimeout}, none, event.Retry},
		{"a status that is retried", Result{Verdict: Answered, Status: 503}, only5xx, event.Retry},
		{"a status that is not", Result{Verdict: Answered, Status: 404}, only5xx, event.Refused},
		{"a redirect, even if all statuses are retried", Result{Verdict: Answered, Status: 302}, all, event.Refused},
		{"another 2xx than expected, even if all statuses are retried", Result{Verdict: Answered, Status: 202}, all, event.Refused},
		{"a no without a status", Result{Verdict: Answered}, all, event.Refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := tt.result.Outcome(tt.retryable); got != tt.want {
				t.Errorf("Outcome of %+v is %q, want %q", tt.result, got, tt.want)
			}
		})
	}
}
