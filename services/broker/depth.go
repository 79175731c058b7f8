package broker

import (
	"bytes"
	"strings"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
)

// maxDepth is how deep arrays and objects of an event's JSON may nest. Parsers
// that call themselves give up, or worse, somewhere above: protobuf's at 100 by
// default, Jackson's at 1,000, encoding/json's at 10,000. The publisher is the
// one to hear of it, not each subscriber.
const maxDepth = 512

// validDepth refuses JSON that nests too deep.
func validDepth(ev *event.Event) error {
	if !deeper(ev.Data, maxDepth) || !strings.Contains(strings.ToLower(ev.ContentType()), "json") {
		return nil
	}
	return errs.Field("data", "nests more than %d arrays and objects in each other; flatten it, or send it as another content type", maxDepth).Because("too-deep")
}

// deeper reports whether the arrays and objects of a JSON document nest deeper
// than limit. What is no JSON has some answer.
func deeper(doc []byte, limit int) bool {
	// Nearly all documents have fewer brackets altogether.
	if bytes.Count(doc, []byte("["))+bytes.Count(doc, []byte("{")) <= limit {
		return false
	}
	depth, quoted := 0, false
	for i := 0; i < len(doc); i++ {
		switch c := doc[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > limit {
				return true
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return false
}
