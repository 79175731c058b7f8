package app

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rawCodec passes messages on without reading them.
type rawCodec struct{}

type frame struct{ b []byte }

func (rawCodec) Marshal(v any) ([]byte, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("app: forward a %T", v)
	}
	return f.b, nil
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("app: forward to a %T", v)
	}
	f.b = append(f.b[:0], data...)
	return nil
}

func (rawCodec) Name() string { return "proto" }

// serveForwarder serves the Master API over gRPC at a gateway whose process does
// not have it. All its methods are unary; what the other side does not know is
// UNIMPLEMENTED there.
func (a *App) serveForwarder(ctx context.Context, addr string, conn *grpc.ClientConn) error {
	l, err := a.listen(ctx, "gateway", addr)
	if err != nil {
		return err
	}
	opts, err := a.serverCredentials(false)
	if err != nil {
		return err
	}
	opts = append(opts, grpc.ForceServerCodec(rawCodec{}), grpc.MaxRecvMsgSize(maxMessage),
		grpc.UnknownServiceHandler(func(_ any, st grpc.ServerStream) error {
			method, ok := grpc.MethodFromServerStream(st)
			if !ok {
				return status.Error(codes.Internal, "the call has no method")
			}
			var in, out frame
			if err := st.RecvMsg(&in); err != nil {
				return err
			}
			ctx := st.Context() // of the call, not of the start
			if md, ok := metadata.FromIncomingContext(ctx); ok {
				ctx = metadata.NewOutgoingContext(ctx, md.Copy())
			}
			var header, trailer metadata.MD
			err := conn.Invoke(ctx, method, &in, &out, grpc.ForceCodec(rawCodec{}), grpc.Header(&header), grpc.Trailer(&trailer))
			st.SetTrailer(trailer)
			if err != nil {
				return err
			}
			if err := st.SendHeader(header); err != nil {
				return err
			}
			return st.SendMsg(&out)
		}))
	a.addGRPC("gateway gRPC", addr, l, grpc.NewServer(opts...))
	return nil
}
