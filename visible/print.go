package visible

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Printf is [fmt.Fprintf] for lines that quote what a node, a control plane, an agent or a log
// said: every text among the arguments is [Text]. Only the format makes lines, columns and
// escape sequences. An error of w is ignored.
func Printf(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, format, visible(args)...)
}

// Sprintf is [Printf] for a caller to whom it matters whether the line is written.
func Sprintf(format string, args ...any) string { return fmt.Sprintf(format, visible(args)...) }

// Error writes a line that begins with the word, such as "warning:". The error may have several
// lines: see [Lines]. Each further one is indented: it may quote what an agent wrote, and is no
// line of ours.
func Error(w io.Writer, word string, err error) {
	first, rest, _ := strings.Cut(strings.TrimRight(Lines(err.Error()), "\n"), "\n")
	fmt.Fprintln(w, word, first)
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
			line = "  " + line
		}
		fmt.Fprintln(w, strings.TrimSuffix(line, "\n"))
	}
}

// Println is [Printf] with blanks between the arguments and a newline at the end.
func Println(w io.Writer, args ...any) {
	fmt.Fprintln(w, visible(args)...)
}

// Encode writes v as JSON that no terminal acts on: see [JSON]. Without indent it is one line.
func Encode(w io.Writer, v any, indent string) error {
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, JSON(text.String()))
	return err
}

// visible returns the arguments with every text as Text has it. Other values stay as they are.
func visible(args []any) []any {
	out := make([]any, len(args))
	for i, a := range args {
		switch a := a.(type) {
		case nil:
		case error:
			out[i] = Text(a.Error())
		case fmt.Stringer:
			out[i] = Text(a.String())
		default:
			out[i] = text(reflect.ValueOf(a))
		}
	}
	return out
}

func text(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint,
		reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return v.Interface()
	case reflect.String:
		return Text(v.String())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return Text(string(v.Bytes()))
		}
	}
	return Text(fmt.Sprint(v.Interface()))
}
