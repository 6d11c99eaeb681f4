# With meta-rauc the image can update itself.
IMAGE_INSTALL:append = " ironbridge-rauc-conf rauc"
