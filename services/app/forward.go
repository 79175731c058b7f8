package app

import (
	"context"
	"errors"
	"fmt"
	"io"

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
// not have it. What the other side does not know is UNIMPLEMENTED there.
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
			return forward(st, conn, method)
		}))
	a.addGRPC("gateway gRPC", addr, l, grpc.NewServer(opts...))
	return nil
}

// forward makes a call of the other side, and passes on what either side says. A
// call with one message each way is a stream that is short.
func forward(st grpc.ServerStream, conn *grpc.ClientConn, method string) error {
	ctx, cancel := context.WithCancel(st.Context()) // of the call, not of the start
	defer cancel()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md.Copy())
	}
	to, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	go func() {
		for {
			var in frame
			if err := st.RecvMsg(&in); err != nil {
				if errors.Is(err, io.EOF) {
					err = to.CloseSend()
				}
				if err != nil {
					cancel()
				}
				return
			}
			if err := to.SendMsg(&in); err != nil {
				return // the other side says why
			}
		}
	}()
	for first := true; ; first = false {
		var out frame
		err := to.RecvMsg(&out)
		if first {
			header, hErr := to.Header()
			if hErr == nil && len(header) > 0 {
				hErr = st.SendHeader(header)
			}
			if hErr != nil && err == nil {
				return hErr
			}
		}
		if err != nil {
			st.SetTrailer(to.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := st.SendMsg(&out); err != nil {
			return err
		}
	}
}
