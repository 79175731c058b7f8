package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// jsonToYAML writes JSON as YAML with the order of keys and the text of numbers
// as they are, which decoding it into Go values would lose.
func jsonToYAML(doc []byte) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	node, err := yamlNode(dec)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(node); err != nil {
		return nil, err
	}
	return out.Bytes(), enc.Close()
}

// yamlNode reads one JSON value.
func yamlNode(dec *json.Decoder) (*yaml.Node, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	scalar := func(tag, text string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}, nil
	}
	switch v := tok.(type) {
	case json.Delim:
		node := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		if v == '[' {
			node = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		}
		for dec.More() {
			// In an object keys and values take turns, as in a mapping's content.
			child, err := yamlNode(dec)
			if err != nil {
				return nil, err
			}
			node.Content = append(node.Content, child)
		}
		if len(node.Content) == 0 {
			node.Style = yaml.FlowStyle
		}
		_, err := dec.Token() // the end
		return node, err
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return scalar("!!float", v.String())
		}
		return scalar("!!int", v.String())
	case bool:
		return scalar("!!bool", fmt.Sprint(v))
	case string:
		return scalar("!!str", v)
	}
	return scalar("!!null", "null")
}

// A document is one of a file that may have several.
type document struct {
	json json.RawMessage
	name string // for messages: "subscriptions.yaml, document 2"
}

var separator = regexp.MustCompile(`(?m)^---(\s|$)`)

// parseDocuments reads YAML or JSON documents separated by "---". A document
// that is a list, or an object with items as lists are shown, stands for what
// is in it.
func parseDocuments(file string, text []byte) ([]document, error) {
	var docs []document
	var starts [][]int
	starts = append(starts, []int{0, 0})
	starts = append(starts, separator.FindAllIndex(text, -1)...)
	for i, at := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		chunk := text[at[1]:end]
		doc, err := toJSON(chunk, bytes.Count(text[:at[1]], []byte("\n")))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, item := range unwrap(doc) {
			docs = append(docs, document{json: item})
		}
	}
	for i := range docs {
		docs[i].name = file
		if len(docs) > 1 {
			docs[i].name = fmt.Sprintf("%s, document %d", file, i+1)
		}
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("%s: there is no document in it", file)
	}
	return docs, nil
}

// unwrap returns the documents that a list stands for, or doc itself.
func unwrap(doc json.RawMessage) []json.RawMessage {
	if doc == nil {
		return nil
	}
	var items []json.RawMessage
	if json.Unmarshal(doc, &items) == nil {
		return items
	}
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if json.Unmarshal(doc, &list) == nil && list.Items != nil {
		return list.Items
	}
	return []json.RawMessage{doc}
}

// toJSON reads one YAML or JSON document that begins after a number of lines;
// an empty one is nil. JSON stays as it is.
func toJSON(chunk []byte, linesBefore int) (json.RawMessage, error) {
	if json.Valid(chunk) {
		return bytes.TrimSpace(chunk), nil
	}
	// The lines before, so that the parser's messages name the right ones.
	padded := append(bytes.Repeat([]byte("\n"), linesBefore), chunk...)
	dec := yaml.NewDecoder(bytes.NewReader(padded))
	var node yaml.Node
	if err := dec.Decode(&node); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	timesAreText(&node)
	var v any
	if err := node.Decode(&v); err != nil {
		return nil, err
	}
	if v == nil {
		return nil, nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, errors.New("it is YAML that has no form in JSON: keys must be text, numbers finite")
	}
	return raw, nil
}

// timesAreText has dates stay what was written: JSON knows no dates.
func timesAreText(node *yaml.Node) {
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!timestamp" {
		node.Tag = "!!str"
	}
	for _, child := range node.Content {
		timesAreText(child)
	}
}
