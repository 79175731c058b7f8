package subscription_test

import (
	"errors"
	"testing"
	"time"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

func TestWhatIsWrongWithAPullSubscriptionIsRefusedByField(t *testing.T) {
	t.Parallel()
	for field, spec := range map[string]string{
		"destination.pull.ackWait": `{"name":"s","types":["a"],"destination":{"pull":{"ackWait":"0.5s"}}}`,
		"ratePerSecond":            `{"name":"s","types":["a"],"ratePerSecond":1,"destination":{"pull":{}}}`,
		"orderingKey":              `{"name":"s","types":["a"],"ordered":true,"orderingKey":"data.id","destination":{"pull":{"ackWait":"43200s"}}}`,
	} {
		err := subscription.Validate(read(t, spec))
		e, ok := errors.AsType[*errs.Error](err)
		if !ok || e.Kind != errs.Invalid || len(e.Violations) == 0 || e.Violations[0].Field != field {
			t.Errorf("%s: error %v, want one of that field", field, err)
		}
	}
	long := `{"name":"s","types":["a"],"destination":{"pull":{"ackWait":"43201s"}}}`
	if err := subscription.Validate(read(t, long)); err == nil {
		t.Error("an ackWait of more than 12h is taken")
	}
}

func TestAckWaitHasADefault(t *testing.T) {
	t.Parallel()
	for spec, want := range map[string]time.Duration{
		`{"name":"s","types":["a"],"destination":{"pull":{}}}`:                           30 * time.Second,
		`{"name":"s","types":["a"],"destination":{"pull":{"ackWait":"5s"}}}`:             5 * time.Second,
		`{"name":"s","types":["a"],"destination":{"webhook":{"url":"http://erp/hook"}}}`: 0,
	} {
		s, err := subscription.Compile(read(t, spec), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.AckWait(); got != want || s.Pulled != (want > 0) {
			t.Errorf("%s: AckWait %s, pulled %t, want %s", spec, got, s.Pulled, want)
		}
	}
}
