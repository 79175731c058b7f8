package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A Local is a connection to servers in the same process. Servers are registered
// with it as with a *grpc.Server, and called through it as through a
// *grpc.ClientConn: by the same generated code, through the same interceptor, but
// without a network or encoding. So the handler of REST need not know which it has.
//
// It has unary methods only. Requests and answers share what they point to, so
// neither side may modify a message's lists, maps and bytes.
type Local struct {
	interceptor grpc.UnaryServerInterceptor
	methods     map[string]localMethod
}

type localMethod struct {
	server  any
	handler grpc.MethodHandler
}

// NewLocal returns a Local without servers. interceptor may be nil.
func NewLocal(interceptor grpc.UnaryServerInterceptor) *Local {
	return &Local{interceptor: interceptor, methods: make(map[string]localMethod)}
}

// RegisterService adds a server. It must not be called once calls are made.
func (l *Local) RegisterService(desc *grpc.ServiceDesc, server any) {
	for _, m := range desc.Methods {
		l.methods["/"+desc.ServiceName+"/"+m.MethodName] = localMethod{server, m.Handler}
	}
}

// Invoke calls a unary method. Of the options it knows [grpc.Header] alone.
func (l *Local) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	m, ok := l.methods[method]
	if !ok {
		return status.Errorf(codes.Unimplemented, "method %s is not served here", method)
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	stream := localStream{method: method}
	ctx = metadata.NewIncomingContext(ctx, md)
	ctx = grpc.NewContextWithServerTransportStream(ctx, &stream)
	out, err := m.handler(m.server, ctx, func(in any) error { return share(in, args) }, l.interceptor)
	for _, o := range opts {
		if h, ok := o.(grpc.HeaderCallOption); ok {
			*h.HeaderAddr = stream.header
		}
	}
	if err != nil {
		return status.Convert(err).Err()
	}
	return share(reply, out)
}

// NewStream is not there.
func (l *Local) NewStream(_ context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Errorf(codes.Unimplemented, "stream %s is not served here", method)
}

// share sets every field of the message dst to that of src.
func share(dst, src any) error {
	to, ok := dst.(proto.Message)
	from, ok2 := src.(proto.Message)
	if !ok || !ok2 {
		return status.Errorf(codes.Internal, "%T and %T are not both messages", dst, src)
	}
	m := to.ProtoReflect()
	from.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		m.Set(f, v)
		return true
	})
	return nil
}

// localStream takes the header of an answer.
type localStream struct {
	method string
	header metadata.MD
}

func (s *localStream) Method() string { return s.method }

func (s *localStream) SetHeader(md metadata.MD) error {
	s.header = metadata.Join(s.header, md)
	return nil
}

func (s *localStream) SendHeader(md metadata.MD) error { return s.SetHeader(md) }

func (s *localStream) SetTrailer(metadata.MD) error { return nil }
