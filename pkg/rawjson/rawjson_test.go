package rawjson_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/posthornhq/posthorn/pkg/rawjson"
)

// rebuild reads a document by what finds things, down to the scalars.
func rebuild(t *testing.T, raw []byte) any {
	t.Helper()
	switch {
	case rawjson.Begins(raw, '{'):
		out := map[string]any{}
		for name, value := range rawjson.Members(raw) {
			out[string(name)] = rebuild(t, value)
		}
		return out
	case rawjson.Begins(raw, '['):
		out := []any{}
		for i, value := range rawjson.Elements(raw) {
			if i != len(out) {
				t.Errorf("element %d comes where %d is due", i, len(out))
			}
			out = append(out, rebuild(t, value))
		}
		return out
	case rawjson.IsString(raw):
		return string(rawjson.Unquote(raw))
	}
	v, err := rawjson.Decode(raw)
	if err != nil {
		t.Errorf("%q is no scalar: %v", raw, err)
	}
	if rawjson.IsNull(raw) != (v == nil) {
		t.Errorf("%q: null %t, but decoded %v", raw, rawjson.IsNull(raw), v)
	}
	return v
}

// What is found is what a decoder finds; in what is not valid, nothing panics.
func FuzzRawJSON(f *testing.F) {
	for _, doc := range []string{
		`{"a":{"b":[1,"x",{"":null}]},"a/b":"~","c\"d\\":2,"a":{"b":[0,"\u0041\\"]},"1":1e5}`,
		" [ true , false,null, -1.50 ,[],{} , \"\\\\\\\"]\" ]\n", `"\ud800"`, `7`, `{"a" : 1 , "b":{ }}`,
		`{"a":`, `[1,`, `"\`, `{"a"1}`, `]`, ``, `{,}`, `[[[`,
	} {
		f.Add(doc)
	}
	f.Fuzz(func(t *testing.T, doc string) {
		raw := []byte(doc)
		if !rawjson.Valid(raw) {
			for _, v := range rawjson.Members(raw) {
				rawjson.Unquote(v)
			}
			for range rawjson.Elements(raw) {
				continue
			}
			for i := range raw {
				if end := rawjson.SkipValue(raw, i); end < i || end > len(raw) {
					t.Errorf("a value at %d of %q ends at %d", i, doc, end)
				}
			}
			return
		}
		want, err := rawjson.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		from := rawjson.SkipBlank(raw, 0)
		if got := rebuild(t, raw[from:rawjson.SkipValue(raw, from)]); !reflect.DeepEqual(got, want) {
			t.Errorf("%q reads as %v, want %v", doc, got, want)
		}
	})
}

func TestDecodeReadsOneValueWithItsNumbers(t *testing.T) {
	t.Parallel()
	v, err := rawjson.Decode([]byte(`{"id":9007199254740993,"list":[1.10,{"x":2}]}`))
	if err != nil {
		t.Fatal(err)
	}
	texts, err := rawjson.Numbers(v, func(n json.Number) (any, error) { return "n" + n.String(), nil })
	if want := map[string]any{"id": "n9007199254740993", "list": []any{"n1.10", map[string]any{"x": "n2"}}}; err != nil || !reflect.DeepEqual(texts, want) {
		t.Errorf("got %v, %v, want %v", texts, err, want)
	}
	big := errors.New("too big")
	for _, doc := range []string{`1`, `[1]`, `{"a":[{"b":1}]}`} {
		v, err := rawjson.Decode([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rawjson.Numbers(v, func(json.Number) (any, error) { return nil, big }); !errors.Is(err, big) {
			t.Errorf("%s: error %v, want what the function said", doc, err)
		}
	}
	for doc, want := range map[string]error{`1 2`: rawjson.ErrTrailing, `{} ]`: rawjson.ErrTrailing} {
		if _, err := rawjson.Decode([]byte(doc)); !errors.Is(err, want) {
			t.Errorf("%q: error %v, want %v", doc, err, want)
		}
	}
	for _, doc := range []string{``, `{`, `nul`} {
		if _, err := rawjson.Decode([]byte(doc)); err == nil {
			t.Errorf("%q was read", doc)
		}
	}
}
