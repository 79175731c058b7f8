package subscription_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

func TestKey(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, key, data, want string
		needsEvent            bool
		wantErr               string
	}{
		{"an attribute", `tenant`, ``, "acme", false, ""},
		{"the subject", `subject`, ``, "o/1", true, ""},
		{"an extension", `extensions.region`, ``, "eu", true, ""},
		{"text in the data", `data.customer`, `{"customer":"c1"}`, "c1", true, ""},
		{"an integer in the data", `data.customer`, `{"customer":9007199254740993}`, "9007199254740993", true, ""},
		{"a negative integer", `data.n`, `{"n":-1}`, "-1", true, ""},
		{"an unsigned integer", `7u`, ``, "7", false, ""},
		{"a bool", `data.vip`, `{"vip":true}`, "true", true, ""},
		{"a comparison", `tenant == "acme"`, ``, "true", false, ""},
		{"put together", `tenant + "/" + string(data.n)`, `{"n":1}`, "acme/1", true, ""},
		{"empty", `data.s`, `{"s":""}`, "", true, ""},
		{"a default", `has(data.s) ? data.s : "none"`, `{}`, "none", true, ""},
		{"a field that is not there", `data.customer`, `{}`, "", true, "no such key: customer"},
		{"a fraction", `data.n`, `{"n":1.5}`, "", true, "result is double"},
		{"an object", `data`, `{}`, "", true, "result is map"},
		{"null", `data.n`, `{"n":null}`, "", true, "result is null"},
		{"data that is not JSON", `data.n`, `{`, "", true, "unexpected EOF"},
		{"too long", `data.s`, `{"s":"` + strings.Repeat("x", subscription.MaxKey+1) + `"}`, "", true, "longer than 1024"},
		{"too expensive", `string(data.a.all(x, data.a.all(y, data.a.all(z, x + y + z >= 0))))`, `{"a":[` + strings.Repeat("1,", 199) + `1]}`, "", true, "cost limit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, err := subscription.CompileKey(tt.key)
			if err != nil {
				t.Fatal(err)
			}
			if k.NeedsEvent() != tt.needsEvent {
				t.Errorf("key needs the event: %t, want %t", k.NeedsEvent(), tt.needsEvent)
			}
			got, err := k.Eval(t.Context(), subscription.NewFacts(&event.Event{
				Type: "order.created", Tenant: "acme", Subject: "o/1", Extensions: map[string]string{"region": "eu"}, Data: []byte(tt.data),
			}))
			if got != tt.want {
				t.Errorf("key is %q, want %q", got, tt.want)
			}
			switch {
			case tt.wantErr == "" && err != nil:
				t.Errorf("error is %q, want none", err)
			case tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)):
				t.Errorf("error is %v, want one with %q", err, tt.wantErr)
			}
		})
	}
}

func TestKeysThatAreRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`data.`: "Syntax error", `customer`: "undeclared reference", `1.5`: "of type double", `[tenant]`: "of type list", `extensions`: "of type map",
		strings.Repeat("a", 5000): "size exceeds",
	} {
		if _, err := subscription.CompileKey(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: error is %v, want one with %q", text, err, want)
		}
		s := read(t, minimal)
		s.Ordered, s.OrderingKey = true, text
		err := subscription.Validate(s)
		if v := errs.ViolationsOf(err); errs.KindOf(err) != errs.Invalid || len(v) != 1 || v[0].Field != "orderingKey" {
			t.Errorf("%.40s: error is %v, want an invalid one about orderingKey", text, err)
		}
	}
}

func TestAKeyIsAlwaysInOnePart(t *testing.T) {
	t.Parallel()
	spec := read(t, minimal)
	spec.Ordered, spec.OrderingKey = true, "data.customer"
	s, err := subscription.Compile(spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	used := map[int]bool{}
	for i := range 200 {
		data := `{"customer":` + strconv.Itoa(i) + `}`
		part := s.Part(t.Context(), subscription.NewFacts(&event.Event{Data: []byte(data)}))
		again := s.Part(t.Context(), subscription.NewFacts(&event.Event{Type: "other", Data: []byte(data)}))
		if part != again || part < 1 || part > subscription.Parts {
			t.Fatalf("customer %d is in part %d and in part %d", i, part, again)
		}
		used[part] = true
	}
	if len(used) != subscription.Parts {
		t.Errorf("200 keys use %d of %d parts", len(used), subscription.Parts)
	}
	none := s.Part(t.Context(), subscription.NewFacts(&event.Event{Data: []byte(`{}`)}))
	if other := s.Part(t.Context(), subscription.NewFacts(&event.Event{Data: []byte(`no JSON`)})); none != other || none == 0 {
		t.Errorf("events without a key are in parts %d and %d", none, other)
	}
}

func TestAKeyStopsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	k, err := subscription.CompileKey(`tenant`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Eval(ctx, subscription.NewFacts(&event.Event{})); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want %v", err, context.Canceled)
	}
}
