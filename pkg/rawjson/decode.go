package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// ErrTrailing says that a document goes on behind its value.
var ErrTrailing = errors.New("there is more than one JSON value")

// Decode reads one JSON value. Numbers are as they are written, of type
// [json.Number]: an ID beyond 2^53 must not become another one.
func Decode(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, ErrTrailing
	}
	return v, nil
}

// Numbers replaces the numbers in what Decode returned, in place, by what number
// makes of them.
func Numbers(v any, number func(json.Number) (any, error)) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		return number(v)
	case map[string]any:
		for key, item := range v {
			if v[key], err = Numbers(item, number); err != nil {
				return nil, err
			}
		}
	case []any:
		for i, item := range v {
			if v[i], err = Numbers(item, number); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}
