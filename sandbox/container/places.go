package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// maxLinks bounds the links on the way to one place.
const maxLinks = 40

// checkPlaces makes sure that what the container shows will be where we say it is. The engine
// follows the image's links to the place of a mount, and the image's maker may be the agent: the
// working directory could cover our own files, and the first process would be the agent's file.
//
// No link may be on the way to the places in own, or below. A link on the way to another mount must
// lead neither into nor around the first two of own. And what the engine reads of the image when a
// container starts must be a file: at a pipe it would wait for ever, as would all of its callers.
func (e *Engine) checkPlaces(ctx context.Context, name string, c *config, own []string) (err error) {
	probe := *c
	probe.HostConfig.Mounts = nil // they would hide what the image has
	id, err := e.create(ctx, name, &probe)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Remove(context.WithoutCancel(ctx), id)) }()
	places := slices.AppendSeq(slices.Clone(own), maps.Keys(c.HostConfig.Tmpfs))
	for _, m := range c.HostConfig.Mounts {
		places = append(places, m.Target)
	}
	way := &way{engine: e, id: id, known: map[string]string{"/": ""}}
	for _, place := range places {
		place = filepath.Clean(place)
		end, link, err := way.follow(ctx, place)
		if err != nil {
			return err
		}
		if link == "" {
			continue
		}
		refused := end == "/" ||
			slices.ContainsFunc(own, func(dir string) bool { return within(place, filepath.Clean(dir)) })
		for _, dir := range own[:2] {
			refused = refused || within(end, dir) || within(dir, end)
		}
		if refused {
			return fmt.Errorf("make container: the image has a link at %s, on the way to %s, where the sandbox has "+
				"something of its own: use an image without it", link, place)
		}
	}
	for _, file := range []string{"/etc/passwd", "/etc/group"} {
		end, _, err := way.follow(ctx, file)
		if err != nil {
			return err
		}
		if _, mode, err := e.linkAt(ctx, id, end); err == nil && !mode.IsRegular() {
			return fmt.Errorf("make container: %s of the image is not a file, and the engine reads it: use an image "+
				"with a file there, or none", file)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// If somebody else has removed the container, nothing was found in it.
	if _, _, err := e.linkAt(ctx, id, "/"); err != nil {
		return err
	}
	return nil
}

// way follows the links of one container.
type way struct {
	engine *Engine
	id     string
	// known are the targets of links by their path, "" for what is no link, and absent for nothing.
	known map[string]string
}

// absent is no target of a link, all of which are absolute.
const absent = "absent"

// follow returns where the path really is, and the first link on the way there, if any.
func (w *way) follow(ctx context.Context, path string) (end, link string, err error) {
	end = "/"
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		end, rest = filepath.Join(end, rest[0]), rest[1:]
		to, err := w.look(ctx, end)
		switch {
		case err != nil:
			return "", "", err
		case to == absent:
			return filepath.Join(append([]string{end}, rest...)...), link, nil
		case to == "":
			continue
		}
		if link == "" {
			link = end
		}
		if links++; links > maxLinks {
			return "", "", fmt.Errorf("make container: too many links in the image at %s: use another image", end)
		}
		end, rest = "/", append(strings.Split(to, "/"), rest...)
	}
	return end, link, nil
}

// look returns where the link at the path leads, "" if something else is there, or absent.
func (w *way) look(ctx context.Context, path string) (string, error) {
	if to, ok := w.known[path]; ok {
		return to, nil
	}
	to, _, err := w.engine.linkAt(ctx, w.id, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		to = absent
	case err != nil:
		return "", err
	case to != "" && !filepath.IsAbs(to):
		return "", fmt.Errorf("make container: the engine says that the image's link at %s leads to %q", path, to)
	}
	w.known[path] = to
	return to, nil
}
