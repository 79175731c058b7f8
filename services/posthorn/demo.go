package main

import (
	"context"

	"github.com/posthornhq/posthorn/pkg/config"
	platform "github.com/posthornhq/posthorn/services/app"
)

func (a *app) demo(ctx context.Context, cfg *config.Config, f *platform.Facts) error { <-ctx.Done(); return nil }
