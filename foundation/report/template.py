"""Frame and style of the page. No script, no request: everything is in the file."""

STYLE = """
:root{color-scheme:light dark;--bg:#f7f7f8;--card:#fff;--ink:#1c1e21;--soft:#5f6670;--rule:#e3e5e8;--grid:#eceef0;
--accent:#2f6fde;--good:#178a50;--bad:#c2410c;--c1:#2f6fde;--c2:#e0702b;--c3:#178a50;--c4:#9b4fd1;--c5:#c93a63;
--c6:#0f8f9c}
@media(prefers-color-scheme:dark){:root{--bg:#131417;--card:#1b1d21;--ink:#e8eaed;--soft:#9aa2ad;--rule:#2c2f35;
--grid:#272a30;--accent:#7aa7ff;--good:#4cc38a;--bad:#f0894f;--c1:#7aa7ff;--c2:#f2a06b;--c3:#4cc38a;--c4:#c191f0;
--c5:#f0809f;--c6:#55c7d3}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
"Noto Sans","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1180px;margin:0 auto;padding:36px 24px 64px}
header h1{font-size:28px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
header p{margin:0;color:var(--soft)}
h2{font-size:19px;margin:44px 0 4px;letter-spacing:-.005em}
h3{font-size:14px;font-weight:600;margin:0 0 8px}
.lead{color:var(--soft);margin:0 0 14px;max-width:78ch}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:16px 18px;min-width:0}
.of{color:var(--soft);font-size:12.5px;margin:-6px 0 10px;overflow-wrap:anywhere}
.verdict{font-size:17px;line-height:1.5;margin:20px 0 0;padding:14px 18px;border-radius:10px;background:var(--card);
border:1px solid var(--rule);border-left:5px solid var(--soft);max-width:none}
.verdict.above{border-left-color:var(--good)}.verdict.below,.verdict.chance{border-left-color:var(--bad)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(118px,1fr));gap:12px;margin-top:20px}
.tile{padding:14px 14px}
.tile .name{color:var(--soft);font-size:13px}
.tile .value{font-size:21px;font-weight:600;line-height:1.3;letter-spacing:-.01em}
.tile .note{white-space:pre-line;color:var(--soft);font-size:12.5px;line-height:1.4}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:14px}
.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr))}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{fill:var(--soft);font-size:12px}
svg .label{font-size:12.5px}svg .name{fill:var(--ink);font-size:13px}
svg .value{fill:var(--ink);font-size:13px;font-weight:600}
svg .grid{stroke:var(--grid)}svg .axis{stroke:var(--soft);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}.faint{opacity:.28;stroke-width:1.2}
.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}.s5{stroke:var(--c5)}
.s6{stroke:var(--c6)}
.dot{stroke:var(--card);stroke-width:1.5}
.dot.s1,.k1{fill:var(--c1);background:var(--c1)}.dot.s2,.k2{fill:var(--c2);background:var(--c2)}
.dot.s3,.k3{fill:var(--c3);background:var(--c3)}.dot.s4,.k4{fill:var(--c4);background:var(--c4)}
.dot.s5,.k5{fill:var(--c5);background:var(--c5)}.dot.s6,.k6{fill:var(--c6);background:var(--c6)}
.dot.s1,.dot.s2,.dot.s3,.dot.s4,.dot.s5,.dot.s6{stroke:var(--card)}
.bars{margin:4px 0 14px;font-size:13px}
.bar{display:grid;grid-template-columns:minmax(96px,36%) 1fr 58px;gap:0 10px;align-items:center}
.of-bar{text-align:right;line-height:1.25;padding:4px 0;overflow-wrap:anywhere}
.of-bar small{display:block;color:var(--soft);font-size:11.5px}
.track{position:relative;height:36px;border-left:1px solid var(--soft)}
.fill{position:absolute;left:0;top:7px;height:22px;border-radius:0 3px 3px 0;background:var(--soft);opacity:.45}
.strong .fill{background:var(--accent);opacity:1}.strong .of-bar,.amount{font-weight:600}
.whisker{position:absolute;top:14px;height:8px;border:solid var(--ink);border-width:0 1.5px}
.whisker::after{content:"";position:absolute;left:0;right:0;top:3px;border-top:1.5px solid var(--ink)}
.track .chance{position:absolute;top:0;bottom:0;border-left:2px dashed var(--bad)}
.scale{position:relative;height:20px;border-top:1px solid var(--soft);color:var(--soft);font-size:12px}
.scale span{position:absolute;top:3px;transform:translateX(-50%)}
.axis-title{color:var(--soft);font-size:12.5px;text-align:center;display:flex;flex-wrap:wrap;gap:0 16px;
justify-content:center}
.by-chance i{display:inline-block;height:11px;border-left:2px dashed var(--bad);margin-right:6px;vertical-align:-1px}
.cell{fill:none;stroke:var(--grid)}.hit{fill:var(--c1)}.miss{fill:var(--c2)}svg .count{fill:var(--ink);font-size:12px}
svg .count.strong{fill:var(--card);font-weight:600}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:6px;color:var(--soft);font-size:12.5px}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;vertical-align:middle}
.scroll{overflow-x:auto}
.maps{display:grid;grid-template-columns:repeat(var(--columns),minmax(76px,1fr));gap:8px;align-items:end}
.maps figure,.near figure,.views figure{margin:0;min-width:0}
.maps img,.near img,.views img{display:block;width:100%;height:auto;border-radius:5px;background:var(--grid)}
figcaption{color:var(--soft);font-size:12px;line-height:1.35;padding-top:4px;overflow-wrap:anywhere}
.maps .head{color:var(--soft);font-size:12.5px}
.views{display:flex;flex-wrap:wrap;gap:8px 10px;align-items:flex-start;padding:12px 0;border-top:1px solid var(--rule)}
.views:first-child{padding-top:0;border-top:0}.views:last-child{padding-bottom:0}
.views figure{max-width:100%}.views .key{flex:0 0 100%;color:var(--soft);font-size:12.5px;overflow-wrap:anywhere}
.near{display:grid;grid-template-columns:minmax(84px,1.12fr) 6px repeat(var(--n),minmax(76px,1fr));gap:10px;
align-items:start;margin-bottom:14px}
.near img{border:3px solid transparent}.near .same img{border-color:var(--good)}
.near .other img{border-color:var(--bad);border-style:dashed}
.near .query img{border-color:var(--ink)}
.matrix{width:fit-content;max-width:100%}
.constant{color:var(--soft);font-size:13.5px;margin:12px 0 0;max-width:110ch}
.pixel{image-rendering:pixelated}.card+.grid,.verdict+.grid{margin-top:14px}
@media(min-width:980px){.grid>.card:only-child{max-width:calc(50% - 7px)}.grid:has(>.card:only-child){display:block}}
.card>img{display:block;max-width:100%;height:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:6px 8px 6px 0;border-bottom:1px solid var(--rule);vertical-align:top}
th{color:var(--soft);font-weight:500;font-size:13px}th[scope]{white-space:nowrap}td.long{overflow-wrap:anywhere}
tbody tr:last-child td{border-bottom:0}
caption{text-align:left;color:var(--soft);font-size:12.5px;padding-bottom:4px}
td.n,th.n{text-align:right;white-space:nowrap}td.n+td:not(.n),th.n+th:not(.n){padding-left:10px}
.scroll td:not(.n){min-width:9ch}.scroll td:not(.n):last-child{min-width:16ch}
.scroll th.n{white-space:normal;vertical-align:bottom}
td.t{white-space:nowrap}tr.best td{font-weight:600}
.empty{color:var(--soft);border-style:dashed}
.chip{display:inline-block;border:1px solid var(--rule);border-radius:99px;padding:0 10px;font-size:12.5px;
color:var(--soft)}
.chip.done{color:var(--good);border-color:currentColor}.chip.failed{color:var(--bad);border-color:currentColor}
details summary{cursor:pointer;font-weight:600}
pre{overflow-x:auto;font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
margin:12px 0 0}
ul.notes{color:var(--soft);margin:12px 0 0;padding-left:20px}
footer{color:var(--soft);font-size:13px;margin-top:48px}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:4px}
@media(max-width:560px){main{padding:22px 14px 40px}header h1{font-size:23px}.tiles{grid-template-columns:1fr 1fr}
.card{padding:13px 13px}.tile .value{font-size:21px}.verdict{font-size:16px;padding:12px 14px}
.grid:not(.small)>.card>svg text{font-size:17px}th[scope]{white-space:normal}}
@media print{:root{color-scheme:light;--bg:#fff;--card:#fff;--ink:#111;--soft:#555;--rule:#ccc;--grid:#ddd;
--accent:#2f6fde;--good:#178a50;--bad:#c2410c;--c1:#2f6fde;--c2:#e0702b;--c3:#178a50;--c4:#9b4fd1;--c5:#c93a63;--c6:#0f8f9c}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}main{max-width:none;padding:0}
.card,.near,.views,figure,tr{break-inside:avoid}h2{break-after:avoid}.scroll{overflow:visible}
details::details-content{content-visibility:visible;height:auto}pre{white-space:pre-wrap;overflow-wrap:anywhere}}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
