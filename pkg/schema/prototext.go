package schema

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/reporter"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/posthornhq/posthorn/pkg/errs"
)

const (
	// maxTokens bounds the tree that a .proto text becomes, which takes some
	// hundred times the memory of the text.
	maxTokens = 100_000
	// protoName is what the file of a .proto text is called.
	protoName = "schema.proto"
)

// CompileProtoText returns the schema that the text of a proto3 file and the
// full name of one of its messages are; message may be empty if the file has one
// top-level message. The file may import the well-known types, which are built
// in, and nothing else. Errors are as of [Compile], and name line and column.
func CompileProtoText(ctx context.Context, typ string, version int, text []byte, message string) (*Schema, error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	c := protocompile.Compiler{Resolver: protocompile.ResolverFunc(only(string(text))), MaxParallelism: 1}
	files, err := c.Compile(ctx, protoName)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return nil, notProto(err)
	}
	f := files[0]
	switch f.Syntax() {
	case protoreflect.Proto3:
	case protoreflect.Proto2:
		return nil, errs.Field(field, "is proto2; only proto3 is accepted: begin the file with syntax = \"proto3\";")
	default:
		return nil, errs.Field(field, "uses editions; only proto3 is accepted: begin the file with syntax = \"proto3\";")
	}
	return compileFiles(typ, version, field, []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(f)}, message)
}

var errImport = errors.New("only the well-known types in google/protobuf/ can be imported; put everything else into the file itself")

// only resolves the text, and what is built in.
func only(text string) func(string) (protocompile.SearchResult, error) {
	return func(path string) (protocompile.SearchResult, error) {
		if path == protoName {
			return protocompile.SearchResult{Source: strings.NewReader(text)}, nil
		}
		if f := wellKnown(path); f != nil {
			return protocompile.SearchResult{Desc: f}, nil
		}
		return protocompile.SearchResult{}, errImport
	}
}

// notProto says in our words what the compiler did not like.
func notProto(err error) error {
	if e, ok := errors.AsType[reporter.ErrorWithPos](err); ok {
		at := e.GetPosition()
		return errs.Field(field, "line %d, column %d: %s", at.Line, at.Col, cut(e.Unwrap().Error(), 400))
	}
	if e, ok := errors.AsType[protocompile.PanicError](err); ok {
		return errs.Wrap(e, errs.Invalid, "definition: is not a .proto file that can be read")
	}
	return errs.Field(field, "is not a .proto file: %s", cut(err.Error(), 400))
}

// checkText refuses what must not get to the compiler: it recurses where the
// text nests, and builds a tree of all tokens before it looks at any.
func checkText(text []byte) error {
	if len(text) > MaxDefinition {
		return errs.New(errs.TooLarge, "the schema's definition is %d bytes, at most %d are allowed", len(text), MaxDefinition)
	}
	if !utf8.Valid(text) {
		return errs.Field(field, "is not valid UTF-8")
	}
	tokens, depth := 0, 0
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c <= ' ':
			i++
			continue
		case c == '/' && i+1 < len(text) && (text[i+1] == '/' || text[i+1] == '*'):
			// Comments take no more memory than themselves, and there are as many as
			// tokens at most.
			i = afterComment(text, i)
		case c == '"' || c == '\'':
			i = afterString(text, i)
		case isWord(c):
			for i < len(text) && isWord(text[i]) {
				i++
			}
		default:
			switch c {
			case '{', '[', '(', '<':
				depth++
			case '}', ']', ')', '>':
				depth = max(depth-1, 0)
			}
			i++
		}
		if tokens++; tokens > maxTokens {
			return errs.Field(field, "has more than %d words and signs", maxTokens)
		}
		if depth > maxNesting {
			return errs.Field(field, "nests deeper than %d", maxNesting)
		}
	}
	return nil
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c >= 0x80
}

func afterComment(text []byte, i int) int {
	end := "\n"
	if text[i+1] == '*' {
		end = "*/"
	}
	n := bytes.Index(text[i+2:], []byte(end))
	if n < 0 {
		return len(text)
	}
	return i + 2 + n + len(end)
}

// afterString returns where the text of quotes at i ends: at the line's end at
// the latest, which the compiler refuses.
func afterString(text []byte, i int) int {
	quote := text[i]
	for i++; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case quote, '\n':
			return i + 1
		}
	}
	return len(text)
}
