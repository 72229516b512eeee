// Bundles the page into dist/: `npm run build`, or `make web` in the project's root.
import { build } from "esbuild";
import fs from "node:fs";
import zlib from "node:zlib";

const runtime = "node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded";
fs.rmSync("dist", { recursive: true, force: true });
fs.mkdirSync("dist");
await build({
  entryPoints: { main: "src/main.ts", style: "style.css" },
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  outdir: "dist",
  legalComments: "eof",
  logLevel: "info",
});
fs.copyFileSync("index.html", "dist/index.html");
for (const [file, name] of [[`${runtime}.wasm`, "ort"], [`${runtime}.jspi.wasm`, "ort-webgpu"]]) {
  fs.writeFileSync(`dist/${name}.wasm.gz`, zlib.gzipSync(fs.readFileSync(file), { level: 9 }));
}
const libraries = ["onnxruntime-web", "onnxruntime-common", "three"].map((name) => {
  const { version, license } = JSON.parse(fs.readFileSync(`node_modules/${name}/package.json`, "utf8"));
  return `${name} ${version} (${license})`;
});
fs.writeFileSync("dist/libraries.txt", libraries.join(", ") + "\n");
