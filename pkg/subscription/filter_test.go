package subscription_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/event"
	"github.com/posthornhq/posthorn/pkg/subscription"
)

func TestFilter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		filter    string
		data      string
		want      bool
		needsData bool
		wantErr   string // part of it; none if empty
	}{
		{"attributes", `type == "order.created" && source == "shop" && tenant == "acme" && subject == "o/1" && context == "default"`, ``, true, false, ""},
		{"type is an attribute and still a function", `type(data.n) == int`, `{"n":1}`, true, true, ""},
		{"extensions", `extensions["region"] == "eu" && !("zone" in extensions)`, ``, true, false, ""},
		{"an extension that is not there", `extensions.zone == "a"`, ``, false, false, "no such key"},

		{"an integer against a double", `data.total > 100.0`, `{"total":101}`, true, true, ""},
		{"an integer against a double, not more", `data.total > 100.0`, `{"total":100}`, false, true, ""},
		{"a double against an integer", `data.total > 100`, `{"total":100.5}`, true, true, ""},
		{"a double that equals an integer", `data.n == 3`, `{"n":3.0}`, true, true, ""},
		{"an integer that equals a double", `data.n == 3.0`, `{"n":3}`, true, true, ""},
		{"an integer that equals an integer", `data.n == 3`, `{"n":3}`, true, true, ""},
		{"numbers of known types", `subject.size() > 2.5 && 3 > 2.5`, ``, true, false, ""},
		{"exponents are doubles", `data.n == 1000 && type(data.n) == double`, `{"n":1e3}`, true, true, ""},
		{"an ID beyond 2^53 stays itself", `data.n == 9007199254740993`, `{"n":9007199254740993}`, true, true, ""},
		{"its neighbour is another", `data.n == 9007199254740992`, `{"n":9007199254740993}`, false, true, ""},
		{"beyond 64 bits it is a double", `data.n > 1.8e19`, `{"n":18446744073709551616}`, true, true, ""},
		{"a number beyond all", `data.n > 1`, `{"n":1e999}`, false, true, "1e999 is too large"},
		{"numbers deep inside", `data.items.exists(i, i.price * 2 == 6)`, `{"items":[{"price":1},{"price":3}]}`, true, true, ""},

		{"has asks before", `has(data.x) && data.x > 1`, `{}`, false, true, ""},
		{"a field that is not there", `data.x > 1`, `{}`, false, true, "no such key: x"},
		{"a field of another type", `data.x > 1`, `{"x":"2"}`, false, true, "no such overload"},
		{"one side is enough", `data.x > 1 || type == "order.created"`, `{}`, true, true, ""},
		{"null", `data.x == null`, `{"x":null}`, true, true, ""},
		{"data that is not an object", `data == "a"`, `"a"`, true, true, ""},
		{"data that is broken", `data.x == 1`, `{"x":`, false, true, "unexpected EOF"},
		{"data of two values", `data.x == 1`, `{"x":1}{"x":1}`, false, true, "more than one JSON value"},
		{"no data", `data.x == 1`, ``, false, true, "EOF"},
		{"broken data that nobody asks for", `type == "order.created"`, `{`, true, false, ""},
		{"regular expressions", `subject.matches("^o/[0-9]+$")`, ``, true, false, ""},
		{"too expensive", `data.a.all(x, data.a.all(y, data.a.all(z, x + y + z >= 0)))`, `{"a":[` + strings.Repeat("1,", 199) + `1]}`, false, true, "cost limit exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := subscription.CompileFilter(tt.filter)
			if err != nil {
				t.Fatal(err)
			}
			if f.NeedsData() != tt.needsData {
				t.Errorf("filter needs data: %t, want %t", f.NeedsData(), tt.needsData)
			}
			got, err := f.Eval(t.Context(), &event.Event{
				Type: "order.created", Source: "shop", Tenant: "acme", Subject: "o/1",
				Extensions: map[string]string{"region": "eu"}, Data: []byte(tt.data),
			})
			if got != tt.want {
				t.Errorf("passes: %t, want %t", got, tt.want)
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

func TestEveryReferenceToDataIsSeen(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`data == 1`, `.data == 1`, `data.x == 1`, `data["x"] == 1`, `has(data.x)`, `type == data.x`, `"data" == data.type`, `[data].size() == 1`,
		`["a"].exists(x, x == data.x)`, `{"a": data.x}.size() == 1`, `type == "a" ? data.x == 1 : false`,
	} {
		f, err := subscription.CompileFilter(text)
		if err != nil {
			t.Fatal(err)
		}
		if !f.NeedsData() {
			t.Errorf("filter %q does not need data, want it to", text)
		}
		if _, err := f.Eval(t.Context(), &event.Event{Type: "a", Data: []byte(`{"x":1,"type":"data"}`)}); err != nil {
			t.Errorf("filter %q: error is %q, want none", text, err)
		}
	}
	for _, text := range []string{`type == "data"`, `extensions["data"] == "a"`, `extensions.data == "a"`} {
		f, err := subscription.CompileFilter(text)
		if err != nil {
			t.Fatal(err)
		}
		if f.NeedsData() {
			t.Errorf("filter %q needs data, want it not to", text)
		}
	}
}

func TestFilterLooksIntoJSONOnly(t *testing.T) {
	t.Parallel()
	f, err := subscription.CompileFilter(`data.x == 1`)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		contentType string
		want        bool
	}{
		{"", true},
		{"application/json", true},
		{"application/json; charset=utf-8", true},
		{"Application/JSON", true},
		{"application/vnd.github+json", true},
		{"text/plain", false},
		{"application/x-protobuf", false},
		{"application/jsonish", false},
	}
	for _, tt := range tests {
		got, err := f.Eval(t.Context(), &event.Event{DataContentType: tt.contentType, Data: []byte(`{"x":1}`)})
		if got != tt.want || (err == nil) != tt.want {
			t.Errorf("content type %q: passes %t (error %v), want %t", tt.contentType, got, err, tt.want)
		}
	}
}

func TestEvalStopsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, text := range []string{`type == "a"`, `data.all(x, data.all(y, x == y))`} {
		f, err := subscription.CompileFilter(text)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Eval(ctx, &event.Event{Data: []byte(`[` + strings.Repeat("1,", 99) + `1]`)})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("filter %q: error is %v, want %v", text, err, context.Canceled)
		}
	}
}

// It must also stop when the time is up in the middle of a loop.
func TestEvalIsInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f, err := subscription.CompileFilter(`data.all(x, data.all(y, x == y))`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Eval(&lateContext{Context: ctx}, &event.Event{Data: []byte(`[` + strings.Repeat("1,", 99) + `1]`)})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want %v", err, context.Canceled)
	}
}

// A lateContext is done when it is asked for the second time.
type lateContext struct {
	context.Context
	asked bool
}

func (c *lateContext) Err() error {
	if !c.asked {
		c.asked = true
		return nil
	}
	return c.Context.Err()
}

// The data of an event that a thousand filters look into is decoded once.
func TestFactsDecodeOnce(t *testing.T) {
	t.Parallel()
	f, err := subscription.CompileFilter(`data.x == 1`)
	if err != nil {
		t.Fatal(err)
	}
	e := &event.Event{Data: []byte(`{"x":1}`)}
	facts := subscription.NewFacts(e)
	for range 2 {
		if ok, err := f.EvalFacts(t.Context(), facts); !ok || err != nil {
			t.Errorf("passes: %t (error %v), want true", ok, err)
		}
		e.Data = []byte(`{"x":2}`) // breaks the contract, to see
	}
}

func BenchmarkFilterOnAttributes(b *testing.B) {
	benchmarkFilter(b, `type == "order.created" && subject != ""`)
}
func BenchmarkFilterOnData(b *testing.B) { benchmarkFilter(b, `data.total > 100.0`) }

func benchmarkFilter(b *testing.B, text string) {
	f, err := subscription.CompileFilter(text)
	if err != nil {
		b.Fatal(err)
	}
	e := &event.Event{Type: "order.created", Subject: "o/1", Data: []byte(`{"id":"o/1","total":101,"items":[{"sku":"a","n":1}]}`)}
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := f.Eval(b.Context(), e); !ok {
			b.Fatal(err)
		}
	}
}

// What the router reads headers for must be there.
func TestNeedsEvent(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`type == "a" && source == "b" && tenant == "c" && context == "default"`: false,
		`"data subject extensions" == type`:                                     false,
		`subject == "a"`:                                                        true, `extensions.zone == "eu"`: true, `"zone" in extensions`: true, `data.x == 1`: true, `type == "a" || subject == ""`: true,
	} {
		f, err := subscription.CompileFilter(text)
		if err != nil {
			t.Fatal(err)
		}
		if f.NeedsEvent() != want {
			t.Errorf("filter %q needs the event: %t, want %t", text, f.NeedsEvent(), want)
		}
	}
}
