<?php // php -S 127.0.0.1:PORT echo.php
function leaves($v) { if (!is_array($v)) return [$v]; $out = []; foreach ($v as $x) $out = array_merge($out, leaves($x)); return $out; }
$latin = fn($s) => mb_convert_encoding($s, 'UTF-8', 'ISO-8859-1');
if (!function_exists('mb_convert_encoding')) $latin = fn($s) => preg_replace_callback('/[\x80-\xff]/', fn($m) => ord($m[0]) < 0xc0 ? "\xc2" . $m[0] : "\xc3" . chr(ord($m[0]) - 64), $s);
$query = [];
foreach ($_GET as $k => $v) $query[$latin((string)$k)] = array_map($latin, leaves($v));
header('Content-Type: application/json');
echo json_encode(['path' => $latin($_SERVER['SCRIPT_NAME'] . ($_SERVER['PATH_INFO'] ?? '')), 'query' => (object)$query]);
