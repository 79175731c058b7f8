package client_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/posthornhq/posthorn/pkg/client"
)

var update = flag.Bool("update", false, "write the golden files")

type orderCreated struct {
	ID       string            `json:"id" jsonschema:"minLength=1"`
	Total    float64           `json:"total" jsonschema:"minimum=0"`
	Currency string            `json:"currency" jsonschema:"enum=EUR,enum=USD"`
	Placed   time.Time         `json:"placed"`
	Items    []item            `json:"items"`
	Ship     *address          `json:"ship,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Extra    json.RawMessage   `json:"extra,omitempty"`
}

type item struct {
	SKU      string `json:"sku"`
	Quantity int    `json:"quantity"`
}

type address struct {
	Street string `json:"street"`
}

type tree struct {
	Name     string `json:"name"`
	Children []tree `json:"children,omitempty"`
}

type page[T any] struct {
	Items []T `json:"items"`
}

// Userinfo has the same name as the other package's.
type Userinfo struct {
	Name  string       `json:"name"`
	Other url.Userinfo `json:"other"`
}

func compile(t *testing.T, doc []byte) *jsonschema.Schema {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler() // loads nothing from elsewhere
	if err := c.AddResource("mem:///s.json", v); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("mem:///s.json")
	if err != nil {
		t.Fatalf("the schema does not stand alone: %v\n%s", err, doc)
	}
	return s
}

func TestSchemaOfIsTheGoldenFile(t *testing.T) {
	t.Parallel()
	got, err := client.SchemaOf[orderCreated]()
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/order_created.schema.json"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("schema (-want +got):\n%s", diff)
	}
	for range 20 {
		again, err := client.SchemaOf[*orderCreated]()
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("the second schema is another (%v):\n%s\nwant\n%s", err, again, got)
		}
	}
}

func TestSchemaOfTellsGoodFromBad(t *testing.T) {
	t.Parallel()
	doc, err := client.SchemaOf[orderCreated]()
	if err != nil {
		t.Fatal(err)
	}
	s := compile(t, doc)
	tests := []struct {
		name, data string
		valid      bool
	}{
		{"all that is required", `{"id":"1","total":1,"currency":"EUR","placed":"2026-01-31T09:00:00Z","items":[{"sku":"a","quantity":1}]}`, true},
		{"a property more", `{"id":"1","total":1,"currency":"EUR","placed":"2026-01-31T09:00:00Z","items":[],"new":1}`, true},
		{"a missing property", `{"id":"1","currency":"EUR","placed":"2026-01-31T09:00:00Z","items":[]}`, false},
		{"another type", `{"id":"1","total":"1","currency":"EUR","placed":"2026-01-31T09:00:00Z","items":[]}`, false},
		{"a wrong item", `{"id":"1","total":1,"currency":"EUR","placed":"2026-01-31T09:00:00Z","items":[{"sku":"a","quantity":1.5}]}`, false},
		{"a value that is not of the enum", `{"id":"1","total":1,"currency":"XXX","placed":"2026-01-31T09:00:00Z","items":[]}`, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(tt.data)))
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Validate(v); (err == nil) != tt.valid {
				t.Errorf("validation says %v, want valid %t", err, tt.valid)
			}
		})
	}
}

func TestSchemaOfStandsAloneForEveryShape(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		make func() ([]byte, error)
		bad  string
	}{
		{"a type that refers to itself", client.SchemaOf[tree], `{"name":"a","children":[{"name":1}]}`},
		{"a generic type", client.SchemaOf[page[item]], `{"items":[{"sku":1,"quantity":1}]}`},
		{"two types of one name", client.SchemaOf[Userinfo], `{"name":1,"other":{}}`},
		{"a list", client.SchemaOf[[]item], `[{"sku":1,"quantity":1}]`},
		{"a map", client.SchemaOf[map[string]int], `{"a":"b"}`},
		{"a string", client.SchemaOf[string], `1`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			doc, err := tt.make()
			if err != nil {
				t.Fatal(err)
			}
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(tt.bad)))
			if err != nil {
				t.Fatal(err)
			}
			if compile(t, doc).Validate(v) == nil {
				t.Errorf("%s is valid, want not, by\n%s", tt.bad, doc)
			}
		})
	}
}

func TestSchemaOfWhatHasNoJSONIsAnError(t *testing.T) {
	t.Parallel()
	if doc, err := client.SchemaOf[struct {
		C chan int `json:"c"`
	}](); err == nil {
		t.Errorf("schema %s, want an error", doc)
	}
}
