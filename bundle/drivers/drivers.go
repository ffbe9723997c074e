// Package drivers lets a program that imports it open bundle stores in clouds:
// s3://BUCKET?prefix=STACK/&region=REGION (also other servers that speak S3 and
// honour If-None-Match: &endpoint=URL&use_path_style=true) and
// gs://BUCKET?prefix=STACK/. Credentials are the cloud's defaults for whoever
// runs the program.
//
// It is not part of package bundle because it costs every build minutes, every
// start of a program 11 ms, and its file 44 MB (measured with `postern --help`:
// 10 ms and 24 MB without), and most programs open a folder, or no store at all.
package drivers

import (
	_ "gocloud.dev/blob/gcsblob" // gs://
	_ "gocloud.dev/blob/s3blob"  // s3://
)
